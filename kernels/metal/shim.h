/* State that the two halves of the shim share: shim.m (device, memory, command buffers) and pipeline.m (kernels, launches). */
#pragma once
#import <Metal/Metal.h>

#include "launch.h"

/* Null: psi_open was not called, or failed. */
extern id<MTLDevice> psi_device;

i32 psi_no_device(const char* where);
/* The encoder of the command buffer that is being filled; null with a status in psi_last_error. */
id<MTLComputeCommandEncoder> psi_encoder(const char* where, i32* status);
/* After a dispatch of `kernel` with so many multiply-adds: commits the command buffer where it holds enough, or launches are measured; the status of an earlier one that failed. */
i32 psi_encoded(const char* kernel, f64 work);

enum { PSI_KERNEL_NAME = 48 };
/* Whether each launch is a command buffer of its own; then its time, of a buffer that is done, is kept. */
bool psi_measures(void);
void psi_keep_time(const char* kernel, id<MTLCommandBuffer> commands);
/* The buffer that has all of [address, address + bytes), and where in it that begins; null where none has. */
id<MTLBuffer> psi_find_buffer(const void* address, f64 bytes, NSUInteger* offset);
/* A buffer for what is not given. */
id<MTLBuffer> psi_nothing(void);
void psi_release_pipelines(void);

/* Kernels of this library: compiled ones (size 0: none), and the source by stem, ended by a null stem. Made by the build. */
typedef struct {
  const char *stem, *source;
} PsiSource;
extern const unsigned char psi_metallib[];
extern const unsigned long psi_metallib_bytes;
extern const PsiSource psi_sources[];
