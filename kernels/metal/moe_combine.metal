/*
 * y[t] = base[t] + (sum over j of weights[t,j] * x[t*used+j], j ascending from 0 by fma): f32, x [tokens*used,width], y and
 * base [tokens,width]; without base the sum alone. y may be base. One thread a column of a token. moe_combine_norm: then
 * the RMS norm of y times w, by a threadgroup a token, in the order of rms_norm.
 */
#include <metal_stdlib>
#include "moe_combine.h"
#include "reduce.h"
using namespace metal;

constant bool HAS_BASE [[function_constant(0)]];

static inline float combined(device const float* x, device const float* weights, ulong slot, uint column, constant MoeCombineParams& p) {
  float sum = 0.0f;
  for (int j = 0; j < p.used; j++) sum = fma(weights[slot + j], x[(slot + j) * p.width + column], sum);
  return sum;
}

kernel void moe_combine_f32(device float* y [[buffer(0)]], device const float* base [[buffer(1)]], device const float* x [[buffer(2)]],
                            device const float* weights [[buffer(3)]], constant MoeCombineParams& p [[buffer(4)]],
                            uint2 at [[thread_position_in_grid]]) {
  if (at.x >= uint(p.width) || at.y >= uint(p.tokens)) return;
  const float sum = combined(x, weights, ulong(at.y) * p.used, at.x, p);
  const ulong i = ulong(at.y) * p.width + at.x;
  y[i] = HAS_BASE ? base[i] + sum : sum;
}

kernel void moe_combine_norm_f32(device float* sums [[buffer(0)]], device const float* base [[buffer(1)]], device const float* x [[buffer(2)]],
                                 device const float* weights [[buffer(3)]], constant MoeCombineParams& p [[buffer(4)]], device float* y [[buffer(5)]],
                                 device const float* w [[buffer(6)]], uint token [[threadgroup_position_in_grid]],
                                 uint thread_index [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],
                                 uint simd [[simdgroup_index_in_threadgroup]], uint simds [[simdgroups_per_threadgroup]]) {
  threadgroup float partial[32];
  const uint width = uint(p.width), step = simds * 32;
  const ulong at = ulong(token) * width;
  float squares = 0;
  for (uint i = thread_index; i < width; i += step) {
    const float v = base[at + i] + combined(x, weights, ulong(token) * p.used, i, p);
    sums[at + i] = v;
    squares = fma(v, v, squares);
  }
  squares = group_sum(squares, partial, lane, simd, simds);
  const float scale = 1.0f / sqrt(squares / float(width) + p.eps);
  for (uint i = thread_index; i < width; i += step) y[at + i] = sums[at + i] * scale * w[i];
}
