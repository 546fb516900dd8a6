/*
 * mix: y = alpha wa a + beta wb b per column (wa, wb or b may be absent), a thread an element; multiply: y = a b.
 * mix_weight_grad: dw[k] += alpha sum over rows, ascending, of dy x; a thread has a column. f32;
 * y, a, b and their gradients may be bf16.
 */
#include <metal_stdlib>
#include "mix.h"
#include "numbers.h"
using namespace metal;

constant bool HAS_B [[function_constant(0)]];
constant bool HAS_WA [[function_constant(1)]];
constant bool HAS_WB [[function_constant(2)]];

kernel void mix_f32(device float* y [[buffer(0)]], device const float* a [[buffer(1)]], device const float* b [[buffer(2)]],
                    device const float* wa [[buffer(3)]], device const float* wb [[buffer(4)]], constant MixParams& p [[buffer(5)]],
                    uint2 at [[thread_position_in_grid]]) {
  if (at.x >= p.width) return;
  const ulong i = ulong(at.y) * p.width + at.x;
  float v = p.alpha * number(a, i, 1);
  if (HAS_WA) v = v * wa[at.x];
  if (HAS_B) {
    float u = p.beta * number(b, i, 2);
    if (HAS_WB) u = u * wb[at.x];
    v = v + u;
  }
  put(y, i, 0, v);
}

kernel void mix_weight_grad_f32(device float* dw [[buffer(0)]], device const float* dy [[buffer(1)]], device const float* x [[buffer(2)]],
                                constant MixParams& p [[buffer(3)]], uint k [[thread_position_in_grid]]) {
  if (k >= p.width) return;
  float sum = 0.0f;
  for (uint row = 0; row < p.rows; row++) {
    const ulong i = ulong(row) * p.width + k;
    sum = fma(number(dy, i, 1), number(x, i, 2), sum);
  }
  dw[k] = dw[k] + p.alpha * sum;
}

kernel void multiply_f32(device float* y [[buffer(0)]], device const float* a [[buffer(1)]], device const float* b [[buffer(2)]],
                         constant MixParams& p [[buffer(3)]], uint i [[thread_position_in_grid]]) {
  if (i < p.width) put(y, i, 0, number(a, i, 1) * number(b, i, 2));
}
