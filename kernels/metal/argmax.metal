/* ids[r] = place of the largest value of row r, the lowest on ties; NaN never wins. A threadgroup has a row. */
#include <metal_stdlib>
#include "argmax.h"
#include "best.h"
using namespace metal;

kernel void argmax_f32(device int* ids [[buffer(0)]], device const float* x [[buffer(1)]], constant ArgmaxParams& p [[buffer(2)]],
                       uint row [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]],
                       uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]],
                       uint simds [[simdgroups_per_threadgroup]]) {
  threadgroup float values[32];
  threadgroup int places[32];
  device const float* z = x + ulong(row) * uint(p.width);
  Best best = {-INFINITY, BEST_NONE};
  for (int i = int(thread_index); i < p.width; i += ARGMAX_THREADS) best = better(best, isnan(z[i]) ? -INFINITY : z[i], i);
  best = group_best(best, values, places, lane, simd, simds);
  if (thread_index == 0) ids[row] = best.id;
}
