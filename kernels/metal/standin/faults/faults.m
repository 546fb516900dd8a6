/* Launches a kernel of faults.metal by its name: y and x of 64 floats. For the stand-in's own tests. */
#include "../../launch.h"

/* `what`: 0 all as it should be; 1 x is not bound; 2 x at index 31; 3 the constant is missing; 4 it has another type */
PSI_API i32 psi_plant(void* y, const void* x, const char* kernel, i32 groups, i32 threads, i32 shift, i32 threadgroup_bytes, i32 what) {
  PsiLaunch l = psi_kernel("faults", kernel);
  psi_write(&l, 0, y, 256);
  if (what != 1) psi_read(&l, what == 2 ? 31 : 1, x, 256);
  if (what == 4) psi_constant_float(&l, 0, 1);
  else if (what != 3) psi_constant_int(&l, 0, shift);
  if (threadgroup_bytes > 0) psi_threadgroup(&l, 0, threadgroup_bytes);
  return psi_launch(&l, groups, 1, 1, threads, 1, 1);
}
