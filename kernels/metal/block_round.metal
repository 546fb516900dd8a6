/*
 * y = x, f32 [count], as blocks of MXFP4 or Q8_0 would hold it, f32 or bf16: ggml's rules for quantising and back, the bits of
 * kernels/cpu/block_round.cpp where the GPU keeps subnormal numbers. A simdgroup has a block of 32, a lane a number.
 */
#include <metal_stdlib>
#include "block_round.h"
#include "numbers.h"
using namespace metal;

/* The largest size in the block; what is no number has none. */
static inline float largest_of(float x) {
  const float size = fabs(x);
  return simd_max(size > 0.0f ? size : 0.0f);
}

/* e with 2^e <= x < 2^(e+1), for subnormal numbers too. */
static inline int place_of_highest_bit(float x) {
  const uint bits = as_type<uint>(x);
  return bits >= 0x00800000u ? int(bits >> 23) - 127 : -118 - int(clz(bits));
}

/* Twice the e2m1 value nearest to v; of two as near the one nearer to zero. What is too small for a scale's inverse is 0. */
static inline float nearest_fp4(float v) {
  const float a = fabs(v);
  if (!(a > 0.5f) || a > 3e38f) return 0.0f;
  const float level = a <= 1.5f ? 1.0f : a <= 2.5f ? 2.0f : a <= 3.5f ? 3.0f : a <= 5.0f ? 4.0f : a <= 7.0f ? 6.0f : a <= 10.0f ? 8.0f : 12.0f;
  return v < 0.0f ? -level : level;
}

kernel void block_round_mxfp4(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], constant BlockRoundParams& p [[buffer(2)]],
                              uint i [[thread_position_in_grid]]) {
  if (i >= p.count) return; /* whole blocks */
  const float largest = largest_of(x[i]);
  const int e = largest > 0.0f ? clamp(place_of_highest_bit(largest) - 2 + 127, 0, 254) : 0;
  const float scale = mxfp4_scale(uint(e)), inverse = 1.0f / scale;
  put(y, i, 0, scale * nearest_fp4(x[i] * inverse));
}

kernel void block_round_q8_0(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], constant BlockRoundParams& p [[buffer(2)]],
                             uint i [[thread_position_in_grid]]) {
  if (i >= p.count) return;
  const float d = largest_of(x[i]) / 127.0f, inverse = d != 0.0f ? 1.0f / d : 0.0f, stored = float(half(d));
  const float v = x[i] * inverse;
  float code = -127.0f;
  if (v >= 127.0f) code = 127.0f;
  else if (v > -127.0f) code = round(v) + 0.0f; /* a code has no zero below zero */
  put(y, i, 0, stored * code);
}
