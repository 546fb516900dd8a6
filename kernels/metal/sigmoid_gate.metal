/*
 * y = x * sigmoid(gate), x and y f32 [rows, heads*width]; the gate of head h from gate_offset + h*head_stride of rows of
 * gate_stride. One thread an element; y may be x.
 */
#include <metal_stdlib>
#include "gate.h"
#include "sigmoid_gate.h"
using namespace metal;

kernel void sigmoid_gate_f32(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], device const float* gate [[buffer(2)]],
                             constant SigmoidGateParams& p [[buffer(3)]], uint2 at [[thread_position_in_grid]]) {
  if (at.x >= p.row_width) return;
  const ulong i = ulong(at.y) * p.row_width + at.x;
  const uint head = at.x / p.width, k = at.x % p.width;
  y[i] = x[i] * sigmoid(gate[ulong(at.y) * p.gate_stride + p.gate_offset + ulong(head) * p.head_stride + k]);
}
