/* y[r] = log(sum(exp(x[r, :]))), f32. A block of 1024 threads per row, the maximum taken out first, sums in a fixed order. */
#include "block_sum.cuh"
#include "scores.cuh"

namespace psi {

constexpr int LOG_SUM_THREADS = 1024;

__global__ void __launch_bounds__(LOG_SUM_THREADS) log_sum_exp_kernel(float* y, const float* x, i32 width) {
  __shared__ float tops[32], sums[32];
  let_next_start();
  wait_for_inputs();
  const float* row = x + (i64)blockIdx.x * width;
  float top = -INFINITY;
  each_of_row<LOG_SUM_THREADS>(row, width, [&](float v, i32) { top = v > top ? v : top; });
  top = block_max(top, tops);
  /* all -inf: keep -inf - top from being NaN; an infinite maximum is its own sum */
  const float shift = top == -INFINITY || top == INFINITY ? 0.0f : top;
  float sum = 0.0f;
  each_of_row<LOG_SUM_THREADS>(row, width, [&](float v, i32) { sum += expf(v - shift); });
  sum = block_sum(sum, sums);
  if (threadIdx.x == 0) y[blockIdx.x] = shift + logf(sum);
}

}  // namespace psi

PSI_API i32 psi_log_sum_exp(void* y, const void* x, i32 rows, i32 width) {
  using namespace psi;
  if (!y || !x || rows < 0 || width < 1) return fail(PSI_INVALID, "[psi_log_sum_exp] expected non-null pointers and a width, got %d x %d.", rows, width);
  return launch("psi_log_sum_exp", log_sum_exp_kernel, dim3((unsigned)rows), dim3(LOG_SUM_THREADS), 0, (float*)y, (const float*)x, width);
}
