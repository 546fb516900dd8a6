/*
 * Rows to experts and back, f32; x, y and their gradients may be bf16; a place out of range reads as zeros and is not written.
 *   expert_rows: y[s] = x[slots[s]/used], a thread an element
 *   expert_sum: y[t] = sum_j (weights[t,j]) x[places[t,j]], j ascending, a thread an element; without weights a gradient
 *   expert_combine_grad: dx[place] = weights[t,j] dy[t], dweights[t,j] = dy[t].x[place], a threadgroup a slot, by reduce.h
 */
#include <metal_stdlib>
#include "expert_rows.h"
#include "numbers.h"
#include "reduce.h"
using namespace metal;

constant bool HAS_WEIGHTS [[function_constant(0)]];

kernel void expert_rows_f32(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], device const int* slots [[buffer(2)]],
                            constant ExpertRowsParams& p [[buffer(3)]], uint2 at [[thread_position_in_grid]]) {
  if (at.x >= p.width) return;
  const uint slot = uint(slots[at.y]);
  put(y, ulong(at.y) * p.width + at.x, 0, slot < p.slots ? number(x, ulong(slot / p.used) * p.width + at.x, 1) : 0.0f);
}

kernel void expert_sum_f32(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], device const float* weights [[buffer(2)]],
                           device const int* places [[buffer(3)]], constant ExpertRowsParams& p [[buffer(4)]],
                           uint2 at [[thread_position_in_grid]]) {
  if (at.x >= p.width) return;
  float sum = 0.0f;
  for (uint j = 0; j < p.used; j++) {
    const ulong slot = ulong(at.y) * p.used + j;
    const uint place = uint(places[slot]);
    if (place >= p.slots) continue;
    const float v = number(x, ulong(place) * p.width + at.x, 1);
    if (HAS_WEIGHTS) sum += weights[slot] * v;
    else sum += v;
  }
  put(y, ulong(at.y) * p.width + at.x, 0, sum);
}

kernel void expert_combine_grad_f32(device float* dx [[buffer(0)]], device float* dweights [[buffer(1)]], device const float* dy [[buffer(2)]],
                                    device const float* x [[buffer(3)]], device const float* weights [[buffer(4)]],
                                    device const int* places [[buffer(5)]], constant ExpertRowsParams& p [[buffer(6)]],
                                    uint slot [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]],
                                    uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]],
                                    uint simds [[simdgroups_per_threadgroup]]) {
  threadgroup float partial[32];
  const uint place = uint(places[slot]);
  const ulong to = ulong(place) * p.width, from = ulong(slot / p.used) * p.width;
  const float weight = weights[slot];
  float dot = 0.0f;
  for (uint k = thread_index; k < p.width && place < p.slots; k += 32 * simds) {
    const float d = number(dy, from + k, 2);
    put(dx, to + k, 0, weight * d);
    dot = fma(d, number(x, to + k, 3), dot);
  }
  dot = group_sum(dot, partial, lane, simd, simds);
  if (thread_index == 0) dweights[slot] = dot;
}
