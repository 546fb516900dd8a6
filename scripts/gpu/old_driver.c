/* A libcuda.so.1 that says it is of CUDA 9: what a machine with an old driver answers. Used by errors.ts. */
typedef int (*Function)(void);

int cuDriverGetVersion(int *version) {
  *version = 9000;
  return 0;
}
int cuInit(unsigned flags) {
  (void)flags;
  return 0;
}
int cuGetProcAddress(const char *name, Function *found, int version, unsigned long long flags) {
  (void)name, (void)version, (void)flags;
  *found = 0;
  return 500; /* CUDA_ERROR_NOT_FOUND */
}
