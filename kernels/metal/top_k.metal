/*
 * values, ids [rows,k]: the k largest of each row, descending, the lower id first on ties; NaN counts as -infinity. A threadgroup has a
 * row: each next one is the best of those that come after the one before it.
 */
#include <metal_stdlib>
#include "best.h"
#include "top_k.h"
using namespace metal;

kernel void top_k_f32(device float* values [[buffer(0)]], device int* ids [[buffer(1)]], device const float* x [[buffer(2)]],
                      constant TopKParams& p [[buffer(3)]], uint row [[threadgroup_position_in_grid]],
                      uint thread_index [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],
                      uint simd [[simdgroup_index_in_threadgroup]], uint simds [[simdgroups_per_threadgroup]]) {
  threadgroup float best_values[32];
  threadgroup int best_ids[32];
  device const float* z = x + ulong(row) * uint(p.width);
  Best last = {INFINITY, -1};
  for (int j = 0; j < p.k; j++) {
    Best best = {-INFINITY, BEST_NONE};
    for (int i = int(thread_index); i < p.width; i += TOP_K_THREADS) {
      const float v = isnan(z[i]) ? -INFINITY : z[i];
      if (v < last.value || (v == last.value && i > last.id)) best = better(best, v, i);
    }
    last = group_best(best, best_values, best_ids, lane, simd, simds);
    if (thread_index == 0) {
      values[ulong(row) * uint(p.k) + uint(j)] = last.value;
      ids[ulong(row) * uint(p.k) + uint(j)] = last.id;
    }
  }
}
