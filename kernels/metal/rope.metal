/*
 * Rotary embedding in place (arXiv:2104.09864): x f32 [rows,stride], head h of a row at offset + h*head_dim. Pair i turns by
 * f32(position) * inv_freq[i]: pairs (i, i + pairs) if neox, else (2i, 2i+1). One thread a pair of a head of a row.
 */
#include <metal_stdlib>
#include "rope.h"
using namespace metal;

kernel void rope_f32(device float* x [[buffer(0)]], device const int* positions [[buffer(1)]], device const float* inv_freq [[buffer(2)]],
                     constant RopeParams& p [[buffer(3)]], uint3 at [[thread_position_in_grid]]) {
  const int i = int(at.x);
  if (i >= p.pairs) return;
  const float angle = float(positions[at.z]) * inv_freq[i];
  const float c = precise::cos(angle) * p.mscale, s = precise::sin(angle) * p.mscale;
  device float* head = x + ulong(at.z) * uint(p.stride) + uint(p.offset) + at.y * uint(p.head_dim);
  const int a = p.neox != 0 ? i : 2 * i, b = p.neox != 0 ? i + p.pairs : 2 * i + 1;
  const float u = head[a], v = head[b];
  head[a] = u * c - v * s;
  head[b] = u * s + v * c;
}
