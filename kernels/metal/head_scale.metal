/*
 * y = x with each head of a row times its gain, a thread an element. head_gain_grad: dgain[h] += sum of dy x over the head's
 * elements, a simdgroup a head: a lane's are those at lane, lane + 32, ... of each row, rows ascending; then simd_sum. f32; x, y and their
 * gradients may be bf16.
 */
#include <metal_stdlib>
#include "head_scale.h"
#include "numbers.h"
using namespace metal;

kernel void head_scale_f32(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], device const float* gain [[buffer(2)]],
                           constant HeadScaleParams& p [[buffer(3)]], uint2 at [[thread_position_in_grid]]) {
  const uint width = p.heads * p.head_dim;
  if (at.x >= width) return;
  const ulong i = ulong(at.y) * width + at.x;
  put(y, i, 0, number(x, i, 1) * gain[at.x / p.head_dim]);
}

kernel void head_gain_grad_f32(device float* dgain [[buffer(0)]], device const float* dy [[buffer(1)]], device const float* x [[buffer(2)]],
                               constant HeadScaleParams& p [[buffer(3)]], uint head [[threadgroup_position_in_grid]],
                               uint lane [[thread_index_in_simdgroup]]) {
  float sum = 0.0f;
  for (uint row = 0; row < p.rows; row++) {
    const ulong base = (ulong(row) * p.heads + head) * p.head_dim;
    for (uint k = lane; k < p.head_dim; k += 32) sum = fma(number(dy, base + k, 1), number(x, base + k, 2), sum);
  }
  sum = simd_sum(sum);
  if (lane == 0) dgain[head] = dgain[head] + sum;
}
