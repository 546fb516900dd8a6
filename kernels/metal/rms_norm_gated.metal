/*
 * y = x / sqrt(mean(x^2) + eps) * w * silu(gate) over heads of `width`: x, y f32 [rows, heads*width], w [width], the heads' gates one
 * after the other from gate_offset of rows of gate_stride. A simdgroup has a head: a lane's elements are lane, lane + 32,
 * ..., the lanes' sums by simd_sum. y may be x.
 */
#include <metal_stdlib>
#include "gate.h"
#include "rms_norm_gated.h"
using namespace metal;

kernel void rms_norm_gated_f32(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], device const float* gate [[buffer(2)]],
                               device const float* w [[buffer(3)]], constant RmsNormGatedParams& p [[buffer(4)]],
                               uint2 at [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]]) {
  const uint width = uint(p.width);
  const ulong from = (ulong(at.y) * p.heads + at.x) * width, gates = ulong(at.y) * p.gate_stride + p.gate_offset + ulong(at.x) * width;
  float squares = 0.0f;
  for (uint i = lane; i < width; i += 32) squares = fma(x[from + i], x[from + i], squares);
  const float scale = 1.0f / sqrt(simd_sum(squares) / float(width) + p.eps);
  for (uint i = lane; i < width; i += 32) {
    const float g = gate[gates + i];
    y[from + i] = x[from + i] * scale * w[i] * (g * sigmoid(g));
  }
}
