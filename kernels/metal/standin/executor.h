/* How the emulated device (device.m) runs kernels; C on one side, C++ on the other. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { STANDIN_ARGUMENTS = 31, STANDIN_THREADGROUP_BYTES = 32768, STANDIN_GROUP_THREADS = 1024 };

typedef struct {
  void* address;
  size_t bytes; /* what the kernel may touch */
} StandinBuffer;

typedef struct {
  const void* kernel;
  StandinBuffer buffers[STANDIN_ARGUMENTS];
  unsigned threadgroup_bytes[STANDIN_ARGUMENTS];
  unsigned groups[3], threads[3];
} StandinDispatch;

/* Runs a dispatch to its end: 0, or 1 with what went wrong, with kernel and thread. */
int standin_run(const StandinDispatch* dispatch, char* error, size_t capacity);

/* The library that was translated from exactly this source; null where there is none. */
const void* standin_library(const char* source);
const char* standin_stem(const void* library);
const void* standin_kernel(const void* library, const char* name);
const char* standin_kernel_name(const void* kernel);
/* What a kernel wants at an index: 0 nothing, 1 a buffer that it reads, 2 one that it writes. */
int standin_wants_buffer(const void* kernel, unsigned index);
int standin_wants_threadgroup(const void* kernel, unsigned index);
/* Function constants of a library by position; null past the last. `type` is bool, int, uint or float. */
const char* standin_constant(const void* library, unsigned position, unsigned* index, const char** type, int* optional);
/* Gives a constant its value until the next call; a null value: undefined. */
void standin_set_constant(const void* library, unsigned position, const void* value);
/* Whether accesses of kernels are checked. */
int standin_checked(void);

#ifdef __cplusplus
}
#endif
