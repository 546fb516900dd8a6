/* y[t] = sum_j weights[t,j] x[t*used+j], f32, in order of j. One thread an element. */
#include <metal_stdlib>
#include "moe_combine.h"
using namespace metal;

kernel void moe_combine_f32(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], device const float* weights [[buffer(2)]],
                            constant MoeCombineParams& p [[buffer(3)]], uint2 at [[thread_position_in_grid]]) {
  if (int(at.x) >= p.width) return;
  float sum = 0.0f;
  for (int j = 0; j < p.used; j++) {
    const ulong slot = ulong(at.y) * uint(p.used) + uint(j);
    sum = fma(weights[slot], x[slot * uint(p.width) + at.x], sum);
  }
  y[ulong(at.y) * uint(p.width) + at.x] = sum;
}
