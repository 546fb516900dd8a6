/*
 * Optimiser steps, f32, one thread an element; g is multiplied by factor[0] (clipping) first, and where that is NaN nothing
 * changes. Rates are f64 in memory.
 *   adam: m += (1-b1)(g-m), v += (1-b2)(g^2-v), p -= lr (m c1 / (sqrt(v c2) + eps) + decay p [decoupled: AdamW])
 *   sgd: g += decay p; buffer = momentum buffer + g; p -= lr buffer
 *   momentum: buffer = momentum buffer + g; y = g + momentum buffer [Nesterov] or buffer
 *   unit_norm: y = x / (Frobenius norm + eps), a threadgroup a matrix; its sum of squares in pairs, scaled as in sum.metal
 *   muon_update: p = p (1 - lr decay) - lr scale y
 */
#include <metal_stdlib>
#include "adam.h"
#include "pair.h"
#include "reduce.h"
using namespace metal;

constant bool HAS_BUFFER [[function_constant(0)]];
constant bool NESTEROV [[function_constant(1)]];

kernel void adam_f32(device float* p [[buffer(0)]], device float* m [[buffer(1)]], device float* v [[buffer(2)]], device const float* g [[buffer(3)]],
                     device const float* factor [[buffer(4)]], device const ulong* rates [[buffer(5)]], constant AdamParams& s [[buffer(6)]],
                     uint i [[thread_position_in_grid]]) {
  if (i >= s.count || isnan(factor[0])) return;
  const float rate = float_of_double(rates[0]), correction1 = float_of_double(rates[1]), correction2 = float_of_double(rates[2]);
  const float old = p[i];
  const float grad = g[i] * factor[0] + (s.decoupled != 0 ? 0.0f : s.decay) * old;
  const float first = m[i] + (1.0f - s.beta1) * (grad - m[i]);
  const float second = v[i] + (1.0f - s.beta2) * (grad * grad - v[i]);
  m[i] = first;
  v[i] = second;
  p[i] = old - rate * (first * correction1 / (sqrt(second * correction2) + s.eps) + (s.decoupled != 0 ? s.decay : 0.0f) * old);
}

kernel void sgd_f32(device float* p [[buffer(0)]], device float* kept [[buffer(1)]], device const float* g [[buffer(2)]],
                    device const float* factor [[buffer(3)]], device const ulong* rates [[buffer(4)]], constant SgdParams& s [[buffer(5)]],
                    uint i [[thread_position_in_grid]]) {
  if (i >= s.count || isnan(factor[0])) return;
  float step = g[i] * factor[0] + s.decay * p[i];
  if (HAS_BUFFER) {
    step = s.momentum * kept[i] + step;
    kept[i] = step;
  }
  p[i] = p[i] - float_of_double(rates[0]) * step;
}

kernel void momentum_f32(device float* y [[buffer(0)]], device float* kept [[buffer(1)]], device const float* g [[buffer(2)]],
                         device const float* factor [[buffer(3)]], device const ulong* rates [[buffer(4)]], constant SgdParams& s [[buffer(5)]],
                         uint i [[thread_position_in_grid]]) {
  if (i >= s.count) return;
  if (isnan(factor[0])) {
    y[i] = 0.0f;
    return;
  }
  const float momentum = float_of_double(rates[1]), grad = g[i] * factor[0], next = momentum * kept[i] + grad;
  kept[i] = next;
  y[i] = NESTEROV ? grad + momentum * next : next;
}

kernel void muon_update_f32(device float* p [[buffer(0)]], device const float* y [[buffer(1)]], device const float* factor [[buffer(2)]],
                            device const ulong* rates [[buffer(3)]], constant MuonParams& s [[buffer(4)]], uint i [[thread_position_in_grid]]) {
  if (i >= s.count || isnan(factor[0])) return;
  int power;
  const float2 part = pair_of_double(rates[0], power);
  const float2 rate = float2(ldexp(part.x, power), ldexp(part.y, power));
  const float2 decay = pair_multiply(rate, float2(s.decay_high, s.decay_low));
  const float keep = pair_add(float2(1.0f, 0.0f), float2(-decay.x, -decay.y)).x;
  p[i] = p[i] * keep - pair_multiply(rate, float2(s.scale_high, s.scale_low)).x * y[i];
}

kernel void unit_norm_f32(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], constant MuonParams& s [[buffer(2)]],
                          uint matrix [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]],
                          uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]],
                          uint simds [[simdgroups_per_threadgroup]]) {
  threadgroup float largest[32];
  threadgroup float2 partial[32];
  const ulong base = ulong(matrix) * s.count;
  const uint step = 32 * simds;
  float most = 0.0f;
  for (uint i = thread_index; i < s.count; i += step) most = max(most, fabs(x[base + i]));
  const int power = exponent_of(group_max(most, largest, lane, simd, simds));
  float2 total = float2(0.0f, 0.0f);
  for (uint i = thread_index; i < s.count; i += step) {
    const float v = ldexp(x[base + i], -power);
    total = pair_add(total, pair_multiply(float2(v, 0.0f), float2(v, 0.0f)));
  }
  total = group_pair_sum(total, partial, lane, simd, simds);
  const float norm = ldexp(total.x > 0.0f ? pair_root(total).x : total.x, power);
  const float scale = 1.0f / (norm + s.eps);
  for (uint i = thread_index; i < s.count; i += step) y[base + i] = x[base + i] * scale;
}
