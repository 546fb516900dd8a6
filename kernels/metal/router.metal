/*
 * Choice of experts: logits f32 [tokens,experts] -> ids, weights [tokens,used], descending, the lower index on ties. mode 1: softmax over
 * all, then the top; 2: sigmoid; 3: the top, then softmax over them. bias is added for choosing only, NaN chosen last. normalize: divide
 * by the sum, at least 2^-14. expert_scale multiplies at the end. A simdgroup has a token: a lane's experts are lane, lane + 32,
 * ...; the next expert is the best of those that come after the one before it, so that nothing is marked as taken.
 */
#include <metal_stdlib>
#include "gate.h"
#include "router.h"
using namespace metal;

constant bool HAS_BIAS [[function_constant(0)]];
constant bool HAS_SCALE [[function_constant(1)]];

inline float probability(int mode, float z, float top, float sum) {
  if (mode == 1) return precise::exp(z - top) / sum;
  return mode == 2 ? sigmoid(z) : z;
}
inline float choice(float probability, float bias) {
  const float key = probability + bias;
  return isnan(key) ? -INFINITY : key;
}

kernel void router_f32(device int* ids [[buffer(0)]], device float* weights [[buffer(1)]], device const float* logits [[buffer(2)]],
                       device const float* bias [[buffer(3)]], device const float* expert_scale [[buffer(4)]],
                       constant RouterParams& p [[buffer(5)]], uint t [[threadgroup_position_in_grid]],
                       uint lane [[thread_index_in_simdgroup]]) {
  device const float* z = logits + ulong(t) * uint(p.experts);
  float top = -INFINITY, sum = 0.0f;
  for (int e = int(lane); e < p.experts; e += ROUTER_THREADS) top = z[e] > top ? z[e] : top;
  top = simd_max(top);
  if (p.mode == 1) {
    for (int e = int(lane); e < p.experts; e += ROUTER_THREADS) sum += precise::exp(z[e] - top);
    sum = simd_sum(sum);
  }
  float last = INFINITY, total = 0.0f, first = 0.0f;
  int last_id = -1;
  for (int j = 0; j < p.used; j++) {
    float best = -INFINITY;
    int best_id = ROUTER_MOST_EXPERTS;
    for (int e = int(lane); e < p.experts; e += ROUTER_THREADS) {
      const float key = choice(probability(p.mode, z[e], top, sum), HAS_BIAS ? bias[e] : 0.0f);
      const bool after = key < last || (key == last && e > last_id);
      if (after && (best_id == ROUTER_MOST_EXPERTS || key > best)) {
        best = key;
        best_id = e;
      }
    }
    last = simd_max(best_id == ROUTER_MOST_EXPERTS ? -INFINITY : best);
    last_id = simd_min(best_id != ROUTER_MOST_EXPERTS && best == last ? best_id : ROUTER_MOST_EXPERTS);
    const float v = probability(p.mode, z[last_id], top, sum);
    if (j == 0) first = v;
    const float w = p.mode == 3 ? precise::exp(v - first) : v;
    total += w;
    if (lane == 0) {
      ids[ulong(t) * uint(p.used) + uint(j)] = last_id;
      weights[ulong(t) * uint(p.used) + uint(j)] = w;
    }
  }
  if (lane != 0) return;
  const float divide = p.mode == 3 ? total : p.normalize != 0 ? fmax(total, 6.103515625e-5f) : 1.0f;
  for (int j = 0; j < p.used; j++) {
    const ulong i = ulong(t) * uint(p.used) + uint(j);
    const float w = weights[i] / divide * p.scale;
    weights[i] = HAS_SCALE ? w * expert_scale[ids[i]] : w;
  }
}
