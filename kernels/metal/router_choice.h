/*
 * The experts of a token from its logits z: see router.metal. By one simdgroup: a lane's experts are lane, lane + 32, ...; the next
 * expert is the best of those that come after the one before it, so that nothing is marked as taken.
 */
#pragma once
#include <metal_stdlib>
#include "gate.h"
#include "router.h"
using namespace metal;

static inline float probability(int mode, float z, float top, float sum) {
  if (mode == 1) return precise::exp(z - top) / sum;
  return mode == 2 ? sigmoid(z) : z;
}
static inline float choice(float probability, float bias) {
  const float key = probability + bias;
  return isnan(key) ? -INFINITY : key;
}

/* To ids[used], weights[used]; `bias` and `expert_scale` are read where there are such. */
static inline void choose_experts(device int* ids, device float* weights, device const float* z, bool has_bias, device const float* bias, bool has_scale,
                           device const float* expert_scale, constant RouterParams& p, uint lane) {
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
      const float key = choice(probability(p.mode, z[e], top, sum), has_bias ? bias[e] : 0.0f);
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
      ids[j] = last_id;
      weights[j] = w;
    }
  }
  if (lane != 0) return;
  const float divide = p.mode == 3 ? total : p.normalize != 0 ? fmax(total, 6.103515625e-5f) : 1.0f;
  for (int j = 0; j < p.used; j++) {
    const float w = weights[j] / divide * p.scale;
    weights[j] = has_scale ? w * expert_scale[ids[j]] : w;
  }
}
