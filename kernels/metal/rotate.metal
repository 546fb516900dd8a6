/*
 * y = x with the first rotary_dims of each head rotated by position * inv_freq (psi_rope's rule, not in place), by the
 * opposite angle when sign is -1: the transposed map, which is its gradient. f32; x and y may be bf16. A thread has one pair of a row, or one
 * element beyond the rotary part, in all heads.
 */
#include <metal_stdlib>
#include "numbers.h"
#include "rotate.h"
using namespace metal;

kernel void rotate_f32(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], device const int* positions [[buffer(2)]],
                       device const float* inv_freq [[buffer(3)]], constant RotateParams& p [[buffer(4)]], uint2 at [[thread_position_in_grid]]) {
  const uint halves = p.rotary_dims / 2, rest = p.head_dim - p.rotary_dims;
  if (at.x >= halves + rest) return;
  ulong base = ulong(at.y) * p.heads * p.head_dim;
  if (at.x >= halves) {
    const uint element = at.x + halves;
    for (uint h = 0; h < p.heads; h++, base += p.head_dim) put(y, base + element, 0, number(x, base + element, 1));
    return;
  }
  const float angle = float(positions[at.y]) * inv_freq[at.x];
  const float c = cos(angle) * p.mscale, s = p.sign * sin(angle) * p.mscale;
  const uint first = p.neox != 0 ? at.x : 2 * at.x, second = p.neox != 0 ? at.x + halves : 2 * at.x + 1;
  for (uint h = 0; h < p.heads; h++, base += p.head_dim) {
    const float a = number(x, base + first, 1), b = number(x, base + second, 1);
    put(y, base + first, 0, a * c - b * s);
    put(y, base + second, 0, a * s + b * c);
  }
}
