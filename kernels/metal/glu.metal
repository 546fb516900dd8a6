/*
 * y = act(gate) * up, f32: rows of gate and up with strides of their own, y [rows,width]. kind 0: silu; 1: gelu (tanh form); 2:
 * GPT-OSS: g = min(gate, limit), u = clamp(up, +-limit), g sigmoid(alpha g) (u + 1). One thread an element.
 */
#include <metal_stdlib>
#include "gate.h"
#include "glu.h"
using namespace metal;

kernel void glu_f32(device float* y [[buffer(0)]], device const float* gate [[buffer(1)]], device const float* up [[buffer(2)]],
                    constant GluParams& p [[buffer(3)]], uint2 at [[thread_position_in_grid]]) {
  if (int(at.x) >= p.width) return;
  const float g = gate[ulong(at.y) * uint(p.gate_stride) + at.x], u = up[ulong(at.y) * uint(p.up_stride) + at.x];
  y[ulong(at.y) * uint(p.width) + at.x] = gated(p.kind, g, u, p.alpha, p.limit);
}
