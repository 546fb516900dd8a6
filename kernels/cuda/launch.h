/*
 * How a launcher starts a kernel: on the library's one stream, with programmatic dependent launch, its status returned
 * as a psionic status. With nvcc it is CUDA; without (PSI_STANDIN) kernels run on fibers of the CPU.
 *
 * Rules for kernels, so that a kernel may start while the one before it ends:
 * - every thread calls wait_for_inputs() before it touches anything but weights, also where it then returns at once.
 *   What only the host writes, between steps, counts as weights: page tables, sequences, positions; and so do cached keys
 *   and values of positions that no token of the step has;
 * - let_next_start() comes first, or as soon as most of the kernel's loads are under way.
 */
#pragma once
#include <cuda_runtime.h>

#include "../common/status.h"
#include "../common/types.h"

namespace psi {


/* The stream of all work; set by psi_open. Null: no device is open. */
extern cudaStream_t stream;
/* Kernels that were launched: tells a launcher whether another one came in between. */
extern u64 launches;
/* The launch behind which the next one begins when all is there, since it wrote what counts as weights (transfer.cu). */
extern u64 copying_launch;
/* Facts about the open device. */
struct DeviceFacts {
  i32 multiprocessors;
  i32 compute; /* 10 * major + minor */
  i64 largest_shared; /* bytes a block may ask for */
  i64 l2_bytes;
};
extern DeviceFacts device;

i32 cuda_failed(const char* where, cudaError_t error); /* a status, with CUDA's own text */
i32 no_device(const char* where);                      /* PSI_INVALID: psi_open was not called, or failed */

#define PSI_DIVIDE_UP(a, b) (((a) + (b) - 1) / (b))

#if defined(PSI_STANDIN)

__device__ inline void wait_for_inputs() {}
__device__ inline void let_next_start() {}

template <class... P, class... A>
i32 launch(const char* op, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, A... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return PSI_OK;
  launches++;
  std::tuple<P...> values(static_cast<P>(arguments)...);
  standin::enqueue([=] {
    const char* text = standin::run({grid.x, grid.y, grid.z}, {block.x, block.y, block.z}, shared_bytes, [&] { std::apply(kernel, values); });
    if (text) standin::failure = text;
  });
  if (!standin::failure) return PSI_OK;
  const char* text = standin::failure;
  standin::failure = nullptr;
  return fail(PSI_INVALID, "[%s] expected a finished kernel, got %s.", op, text);
}

/* Shared memory whose size the launch gives, aligned to 1024 bytes. */
#define PSI_DYNAMIC_SHARED(name) unsigned char* name = (unsigned char*)psi::standin::self->shared

#else

__device__ __forceinline__ void wait_for_inputs() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

/* More than 48 KiB of shared memory, what a kernel declares itself included, must be asked for, once per kernel. */
constexpr size_t FREE_SHARED = 40 << 10;
i32 allow_shared(const char* op, const void* kernel, size_t bytes);
i32 launch_failed(const char* op, cudaError_t error, dim3 grid, dim3 block, size_t shared_bytes);

template <class... P, class... A>
i32 launch(const char* op, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, A... arguments) {
  if (!stream) return no_device(op);
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return PSI_OK;
  if (shared_bytes > FREE_SHARED)
    if (i32 status = allow_shared(op, (const void*)kernel, shared_bytes)) return status;
  const bool behind_copy = copying_launch == launches;
  launches++;
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = device.compute >= 90 && !behind_copy ? 1 : 0;
  cudaError_t error = cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...);
  return error == cudaSuccess ? PSI_OK : launch_failed(op, error, grid, block, shared_bytes);
}

#define PSI_DYNAMIC_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]

#endif

/* Returns the status of the enclosing launcher when it is not PSI_OK. */
#define PSI_TRY(expression)                     \
  do {                                          \
    if (i32 status_ = (expression)) return status_; \
  } while (0)

}  // namespace psi
