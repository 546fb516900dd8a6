/* y[r] = log(sum(exp(x[r,:]))), f32. A threadgroup has a row: its maximum, then the sum by reduce.h. Infinities and NaN stay what they are. */
#include <metal_stdlib>
#include "log_sum_exp.h"
#include "reduce.h"
using namespace metal;

kernel void log_sum_exp_f32(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], constant LogSumExpParams& p [[buffer(2)]],
                            uint row [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]],
                            uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]],
                            uint simds [[simdgroups_per_threadgroup]]) {
  threadgroup float partial[32];
  device const float* z = x + ulong(row) * uint(p.width);
  float top = -INFINITY, sum = 0.0f;
  for (int i = int(thread_index); i < p.width; i += LOG_SUM_THREADS) top = z[i] > top ? z[i] : top;
  top = group_max(top, partial, lane, simd, simds);
  const float base = isinf(top) ? 0.0f : top;
  for (int i = int(thread_index); i < p.width; i += LOG_SUM_THREADS) sum += precise::exp(z[i] - base);
  sum = group_sum(sum, partial, lane, simd, simds);
  if (thread_index == 0) y[row] = base + precise::log(sum);
}
