/*
 * For each row and group g: y = x / sqrt(mean(x^2) + eps) * w over x[row*stride + offset + g*width ...]; in
 * add_rms_norm x is first sum = x + delta. f32, sums of squares in f32. A threadgroup has one group of one row: a thread's
 * elements are thread, thread + 256, ...; then the threads' sums by reduce.h. y may be x, sum may be x or delta.
 */
#include <metal_stdlib>
#include "reduce.h"
#include "rms_norm.h"
using namespace metal;

constant bool HAS_WEIGHT [[function_constant(0)]];
constant bool ADDS [[function_constant(1)]];

kernel void rms_norm_f32(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], device const float* w [[buffer(2)]],
                         constant RmsNormParams& p [[buffer(3)]], device float* sum [[buffer(4)]], device const float* delta [[buffer(5)]],
                         uint2 group [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]],
                         uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]],
                         uint simds [[simdgroups_per_threadgroup]]) {
  threadgroup float partial[32];
  ulong at = ulong(group.y) * p.stride + p.offset + ulong(group.x) * p.width;
  const uint width = uint(p.width), step = simds * 32;
  float squares = 0;
  for (uint i = thread_index; i < width; i += step) {
    float v = x[at + i];
    if (ADDS) {
      v = v + delta[at + i];
      sum[at + i] = v;
    }
    squares = fma(v, v, squares);
  }
  squares = group_sum(squares, partial, lane, simd, simds);
  float scale = 1.0f / sqrt(squares / float(width) + p.eps);
  for (uint i = thread_index; i < width; i += step) {
    float v = (ADDS ? sum[at + i] : x[at + i]) * scale;
    y[at + i] = HAS_WEIGHT ? v * w[i] : v;
  }
}
