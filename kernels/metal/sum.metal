/*
 * Sums to one number in one order, of f32 or bf16; numbers wider than f32 are pairs of floats or bits of f64 (pair.h).
 *   sum: y = scale * sum x. One threadgroup: a thread's elements are thread, thread + 256, ..., then the threads' pairs.
 *   spread, its gradient: y[i] = scale * x[0]
 *   sum_squares: a threadgroup sums the squares of 4096 elements, scaled by a power of two so that none overflows or
 *   vanishes, to an f64; sum_parts adds those in order: a thread some neighbours, then thread 0 the threads' sums.
 *   clip_factor: norm = sqrt(sum of squares), factor = min(1, limit / norm), one thread.
 */
#include <metal_stdlib>
#include "numbers.h"
#include "pair.h"
#include "reduce.h"
#include "sum.h"
using namespace metal;

kernel void sum_f32(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], constant SumParams& p [[buffer(2)]],
                    uint thread_index [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],
                    uint simd [[simdgroup_index_in_threadgroup]], uint simds [[simdgroups_per_threadgroup]]) {
  threadgroup float2 partial[32];
  float2 total = float2(0.0f, 0.0f);
  for (uint i = thread_index; i < p.count; i += 32 * simds) total = pair_add(total, float2(number(x, i, 1), 0.0f));
  total = group_pair_sum(total, partial, lane, simd, simds);
  if (thread_index == 0) put(y, 0, 0, pair_multiply(total, float2(p.scale_high, p.scale_low)).x);
}

kernel void spread_f32(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], constant SumParams& p [[buffer(2)]],
                       uint i [[thread_position_in_grid]]) {
  if (i < p.count) put(y, i, 0, pair_multiply(float2(number(x, 0, 1), 0.0f), float2(p.scale_high, p.scale_low)).x);
}

kernel void sum_squares_f32(device ulong* parts [[buffer(0)]], device const float* x [[buffer(1)]], constant SumParams& p [[buffer(2)]],
                            uint piece [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]],
                            uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]],
                            uint simds [[simdgroups_per_threadgroup]]) {
  threadgroup float largest[32];
  threadgroup float2 partial[32];
  const uint begin = piece * SUM_PIECE, end = min(begin + uint(SUM_PIECE), p.count), step = 32 * simds;
  float most = 0.0f;
  for (uint i = begin + thread_index; i < end; i += step) most = max(most, fabs(number(x, i, 1)));
  const int power = exponent_of(group_max(most, largest, lane, simd, simds));
  float2 total = float2(0.0f, 0.0f);
  for (uint i = begin + thread_index; i < end; i += step) {
    const float v = ldexp(number(x, i, 1), -power);
    total = pair_add(total, pair_multiply(float2(v, 0.0f), float2(v, 0.0f)));
  }
  total = group_pair_sum(total, partial, lane, simd, simds);
  if (thread_index == 0) parts[piece] = double_of(total, 2 * power);
}

kernel void sum_parts(device ulong* y [[buffer(0)]], device const ulong* parts [[buffer(1)]], constant SumParams& p [[buffer(2)]],
                      uint thread_index [[thread_index_in_threadgroup]], uint simds [[simdgroups_per_threadgroup]]) {
  threadgroup ulong sums[SUM_THREADS];
  const uint threads = 32 * simds, each = (p.count + threads - 1) / threads;
  ulong total = 0;
  for (uint i = thread_index * each; i < min((thread_index + 1) * each, p.count); i++) total = double_add(total, parts[i]);
  sums[thread_index] = total;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (thread_index != 0) return;
  for (uint i = 1; i < threads; i++) total = double_add(total, sums[i]);
  y[0] = total;
}

kernel void clip_factor_f32(device float* factor [[buffer(0)]], device ulong* norm [[buffer(1)]], device const ulong* squares [[buffer(2)]],
                            device const float* losses [[buffer(3)]], constant SumParams& p [[buffer(4)]], uint i [[thread_position_in_grid]]) {
  if (i != 0) return;
  ulong total = 0;
  for (uint k = 0; k < p.count; k++) total = double_add(total, squares[k]);
  const ulong limit = ulong(p.limit_high) << 32 | p.limit_low;
  ulong length = total;
  if (total != 0 && total < DOUBLE_INFINITY) {
    int power;
    const float2 square = pair_of_double(total, power);
    length = double_of(pair_root(square), power / 2);
  }
  norm[0] = length;
  float clip = 1.0f;
  if (length > limit && length < DOUBLE_INFINITY) {
    int above, below;
    const float2 a = pair_of_double(limit, above), b = pair_of_double(length, below);
    clip = ldexp(pair_divide(a, b), above - below);
  }
  bool finite = length < DOUBLE_INFINITY;
  for (uint k = 0; k < p.losses; k++) finite = finite && isfinite(losses[k]);
  if (!finite) clip = as_type<float>(0x7fc00000u);
  factor[0] = clip;
}
