/*
 * y[t,c] = silu(sum_j w[c,j] x[t-taps+1+j,c]), j ascending, f32; state [slots,taps-1,channels] holds the last inputs of each
 * sequence, oldest first. One thread has a channel of all tokens, which it walks in order with the last inputs in
 * registers: the bits of a token do not depend on how tokens are spread over calls.
 */
#include <metal_stdlib>
#include "causal_conv1d.h"
#include "gate.h"
#include "recurrent.h"
using namespace metal;

kernel void causal_conv1d_f32(device float* y [[buffer(0)]], device float* state [[buffer(1)]], device const float* x [[buffer(2)]],
                              device const float* w [[buffer(3)]], device const int* token_sequence [[buffer(4)]],
                              device const int* token_position [[buffer(5)]], device const int* sequence_slot [[buffer(6)]],
                              constant CausalConv1dParams& p [[buffer(7)]], uint c [[thread_position_in_grid]]) {
  if (int(c) >= p.channels) return;
  float taps[CONV_MOST_TAPS], last[CONV_MOST_TAPS];
  for (int j = 0; j < p.taps; j++) taps[j] = w[c * uint(p.taps) + uint(j)];
  int sequence = -1, slot = -1;
  for (int t = 0; t < p.tokens; t++) {
    if (t == 0 || token_sequence[t] != sequence) {
      sequence = token_sequence[t];
      slot = slot_of(sequence_slot, sequence, p.sequences, p.slots);
      const bool fresh = slot < 0 || token_position[t] == 0;
      for (int j = 0; j < p.taps - 1; j++)
        last[j] = fresh ? 0.0f : state[(ulong(slot) * uint(p.taps - 1) + uint(j)) * uint(p.channels) + c];
    }
    last[p.taps - 1] = x[ulong(t) * uint(p.x_stride) + uint(p.x_offset) + c];
    float sum = 0.0f;
    for (int j = 0; j < p.taps; j++) sum = fma(taps[j], last[j], sum);
    y[ulong(t) * uint(p.channels) + c] = sum * sigmoid(sum);
    for (int j = 0; j < p.taps - 1; j++) last[j] = last[j + 1];
    const bool ends = t + 1 == p.tokens || token_sequence[t + 1] != sequence;
    if (ends && slot >= 0)
      for (int j = 0; j < p.taps - 1; j++) state[(ulong(slot) * uint(p.taps - 1) + uint(j)) * uint(p.channels) + c] = last[j];
  }
}
