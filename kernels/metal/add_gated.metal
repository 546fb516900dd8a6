/* y[t] = base[t] + sigmoid(gate[t]) x[t], f32 [rows,width]; gate [rows]. One thread an element; y may be base or x. */
#include <metal_stdlib>
#include "add_gated.h"
#include "gate.h"
using namespace metal;

kernel void add_gated_f32(device float* y [[buffer(0)]], device const float* base [[buffer(1)]], device const float* x [[buffer(2)]],
                          device const float* gate [[buffer(3)]], constant AddGatedParams& p [[buffer(4)]], uint2 at [[thread_position_in_grid]]) {
  if (at.x >= p.width) return;
  const ulong i = ulong(at.y) * p.width + at.x;
  y[i] = base[i] + sigmoid(gate[at.y]) * x[i];
}
