/*
 * y = x / sqrt(mean(x^2) + eps) * w over each group of each row (psi_rms_norm), and of the sum of two streams
 * (psi_add_rms_norm). A block of 256 threads per wide group, a warp per group of up to 512 elements; thread t sums every
 * 256th (32nd) piece of 4 elements, then the block's tree: the same order for any number of rows.
 */
#include "norm.cuh"

namespace psi {

__global__ void __launch_bounds__(NORM_THREADS) norm_kernel(const __grid_constant__ NormArguments p) {
  __shared__ float shared[32];
  let_next_start();
  norm_group<NORM_THREADS>(p, blockIdx.x, blockIdx.y, threadIdx.x, shared);
}

__global__ void __launch_bounds__(128) narrow_norm_kernel(const __grid_constant__ NormArguments p, i64 count) {
  let_next_start();
  const i64 task = (i64)blockIdx.x * 4 + threadIdx.x / 32;
  if (task >= count) wait_for_inputs();
  else norm_group<32>(p, task / p.groups, (i32)(task % p.groups), threadIdx.x % 32, nullptr);
}

i32 launch_norm(const char* op, const NormArguments& p, i32 rows) {
  if (p.width > NORM_NARROW) return launch(op, norm_kernel, dim3((unsigned)rows, (unsigned)p.groups), dim3(NORM_THREADS), 0, p);
  const i64 count = (i64)rows * p.groups;
  return launch(op, narrow_norm_kernel, dim3((unsigned)PSI_DIVIDE_UP(count, 4)), dim3(128), 0, p, count);
}

}  // namespace psi

PSI_API i32 psi_rms_norm(void* y, const void* x, const void* w, i32 rows, i32 stride, i32 offset, i32 groups, i32 width, f32 eps) {
  using namespace psi;
  if (!y || !x) return fail(PSI_INVALID, "[psi_rms_norm] expected non-null pointers.");
  if (rows < 0 || groups < 1 || width < 1 || offset < 0 || (i64)offset + (i64)groups * width > stride)
    return fail(PSI_INVALID, "[psi_rms_norm] expected %d groups of %d from %d within rows of %d.", groups, width, offset, stride);
  return launch_norm("psi_rms_norm", {nullptr, (float*)y, (const float*)x, nullptr, (const float*)w, stride, offset, groups, width, eps}, rows);
}

PSI_API i32 psi_add_rms_norm(void* sum, void* y, const void* x, const void* delta, const void* w, i32 rows, i32 width, f32 eps) {
  using namespace psi;
  if (!sum || !y || !x || !delta || !w) return fail(PSI_INVALID, "[psi_add_rms_norm] expected non-null pointers.");
  if (rows < 0 || width < 1) return fail(PSI_INVALID, "[psi_add_rms_norm] expected rows >= 0 and a width, got %d and %d.", rows, width);
  return launch_norm("psi_add_rms_norm", {(float*)sum, (float*)y, (const float*)x, (const float*)delta, (const float*)w, width, 0, 1, width, eps}, rows);
}
