/*
 * norm: y = (x - mean) * scale * w + b with scale = 1/sqrt(var + eps), or the RMS norm when not CENTER; stats [rows,2] keeps
 * mean and scale. norm_grad, with n = (x - mean) * scale and g = dy * w:
 *   dx (+)= scale * (g - mean(g) [CENTER only] - n * mean(g * n));   dw += sum over rows of dy * n;   db += sum of dy.
 * f32; x, y and their gradients may be bf16. A threadgroup has a row: a thread's elements are thread, thread + threads, ..., then the threads' sums by reduce.h; the
 * number of threads follows from the width. norm_weight_grad: a thread has a column, rows ascending.
 */
#include <metal_stdlib>
#include "norm.h"
#include "numbers.h"
#include "reduce.h"
using namespace metal;

constant bool CENTER [[function_constant(0)]];
constant bool HAS_WEIGHT [[function_constant(1)]];
constant bool HAS_BIAS [[function_constant(2)]];
constant bool ADDS [[function_constant(3)]];

kernel void norm_f32(device float* y [[buffer(0)]], device float* stats [[buffer(1)]], device const float* x [[buffer(2)]],
                     device const float* w [[buffer(3)]], device const float* b [[buffer(4)]], constant NormParams& p [[buffer(5)]],
                     uint row [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]],
                     uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]],
                     uint simds [[simdgroups_per_threadgroup]]) {
  threadgroup float partial[32];
  const ulong at = ulong(row) * p.width;
  const uint step = 32 * simds;
  float mean = 0.0f;
  if (CENTER) {
    float sum = 0.0f;
    for (uint k = thread_index; k < p.width; k += step) sum += number(x, at + k, 2);
    mean = group_sum(sum, partial, lane, simd, simds) / float(p.width);
  }
  float squares = 0.0f;
  for (uint k = thread_index; k < p.width; k += step) {
    const float d = number(x, at + k, 2) - mean;
    squares = fma(d, d, squares);
  }
  squares = group_sum(squares, partial, lane, simd, simds);
  const float scale = 1.0f / sqrt(squares / float(p.width) + p.eps);
  if (thread_index == 0) {
    stats[2 * ulong(row)] = mean;
    stats[2 * ulong(row) + 1] = scale;
  }
  for (uint k = thread_index; k < p.width; k += step) {
    float v = (number(x, at + k, 2) - mean) * scale;
    if (HAS_WEIGHT) v = v * w[k];
    if (HAS_BIAS) v = v + b[k];
    put(y, at + k, 0, v);
  }
}

kernel void norm_grad_f32(device float* dx [[buffer(0)]], device const float* dy [[buffer(1)]], device const float* x [[buffer(2)]],
                          device const float* w [[buffer(3)]], device const float* stats [[buffer(4)]], constant NormParams& p [[buffer(5)]],
                          uint row [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]],
                          uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]],
                          uint simds [[simdgroups_per_threadgroup]]) {
  threadgroup float partial[32];
  const ulong at = ulong(row) * p.width;
  const uint step = 32 * simds;
  const float mean = stats[2 * ulong(row)], scale = stats[2 * ulong(row) + 1];
  float sum_g = 0.0f, sum_gn = 0.0f;
  for (uint k = thread_index; k < p.width; k += step) {
    float g = number(dy, at + k, 1);
    if (HAS_WEIGHT) g = g * w[k];
    sum_g += g;
    sum_gn = fma(g, (number(x, at + k, 2) - mean) * scale, sum_gn);
  }
  float mean_g = 0.0f;
  if (CENTER) mean_g = group_sum(sum_g, partial, lane, simd, simds) / float(p.width);
  const float mean_gn = group_sum(sum_gn, partial, lane, simd, simds) / float(p.width);
  for (uint k = thread_index; k < p.width; k += step) {
    float g = number(dy, at + k, 1);
    if (HAS_WEIGHT) g = g * w[k];
    const float d = scale * (g - mean_g - (number(x, at + k, 2) - mean) * scale * mean_gn);
    put(dx, at + k, 0, ADDS ? number(dx, at + k, 0) + d : d);
  }
}

kernel void norm_weight_grad_f32(device float* dw [[buffer(0)]], device float* db [[buffer(1)]], device const float* dy [[buffer(2)]],
                                 device const float* x [[buffer(3)]], device const float* stats [[buffer(4)]], constant NormParams& p [[buffer(5)]],
                                 uint k [[thread_position_in_grid]]) {
  if (k >= p.width) return;
  float sum_w = 0.0f, sum_b = 0.0f;
  for (uint row = 0; row < p.rows; row++) {
    const ulong at = ulong(row) * p.width + k;
    const float g = number(dy, at, 2);
    if (HAS_WEIGHT) sum_w = fma(g, (number(x, at, 3) - stats[2 * ulong(row)]) * stats[2 * ulong(row) + 1], sum_w);
    sum_b += g;
  }
  if (HAS_WEIGHT) dw[k] = dw[k] + sum_w;
  if (HAS_BIAS) db[k] = db[k] + sum_b;
}
