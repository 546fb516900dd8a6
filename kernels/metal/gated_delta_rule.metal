/*
 * Gated delta rule (arXiv:2412.06464), recurrent form; for each value head with S f32 [key_dim,value_dim]:
 *   S = exp(g) S; u = sigmoid(b) (v - S^T k); S += k u^T; y = S^T q      g = decay * softplus(a + dt_bias)
 * with k / sqrt(|k|^2 + 1e-6) and q / sqrt(|q|^2 + 1e-6) / sqrt(key_dim); layouts in ffi/psionic.h. A simdgroup has a column of S
 * of a value head of a sequence: a lane its rows lane, lane + 32, ..., in registers over all tokens of the sequence; sums over key_dim
 * by simd_sum. The bits of a token do not depend on how tokens are spread over calls.
 */
#include <metal_stdlib>
#include "gate.h"
#include "gated_delta_rule.h"
#include "recurrent.h"
using namespace metal;

kernel void gated_delta_rule_f32(device float* y [[buffer(0)]], device float* state [[buffer(1)]], device const float* qkv [[buffer(2)]],
                                 device const float* a [[buffer(3)]], device const float* b [[buffer(4)]], device const float* decay [[buffer(5)]],
                                 device const float* dt_bias [[buffer(6)]], device const int* token_sequence [[buffer(7)]],
                                 device const int* token_position [[buffer(8)]], device const int* sequence_slot [[buffer(9)]],
                                 constant GatedDeltaRuleParams& p [[buffer(10)]], uint2 at [[threadgroup_position_in_grid]],
                                 uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]]) {
  const int column = int(at.x) * (DELTA_THREADS / 32) + int(simd), head = int(at.y);
  if (column >= p.value_dim) return;
  const int key_head = p.tiled != 0 ? head % p.key_heads : head / (p.value_heads / p.key_heads);
  const int rows = (p.key_dim + 31) / 32;
  float s[DELTA_MOST_KEYS / 32];
  int sequence = -1, slot = -1;
  for (int t = 0; t < p.tokens; t++) {
    if (t == 0 || token_sequence[t] != sequence) {
      sequence = token_sequence[t];
      slot = slot_of(sequence_slot, sequence, p.sequences, p.slots);
      const bool fresh = slot < 0 || token_position[t] == 0;
      for (int r = 0; r < rows; r++) {
        const int d = r * 32 + int(lane);
        s[r] = fresh || d >= p.key_dim ? 0.0f : state[((ulong(slot) * uint(p.value_heads) + uint(head)) * uint(p.key_dim) + uint(d)) * uint(p.value_dim) + uint(column)];
      }
    }
    const ulong row = ulong(t) * uint(p.stride);
    device const float* q = qkv + row + p.q_offset + key_head * p.key_dim;
    device const float* k = qkv + row + p.k_offset + key_head * p.key_dim;
    float qq = 0.0f, kk = 0.0f, predicted = 0.0f;
    for (int r = 0; r < rows; r++) {
      const int d = r * 32 + int(lane);
      if (d >= p.key_dim) continue;
      qq = fma(q[d], q[d], qq);
      kk = fma(k[d], k[d], kk);
      predicted = fma(s[r], k[d], predicted);
    }
    const float q_scale = 1.0f / sqrt(simd_sum(qq) + 1e-6f) / sqrt(float(p.key_dim)), k_scale = 1.0f / sqrt(simd_sum(kk) + 1e-6f);
    const float x = a[ulong(t) * uint(p.a_stride) + uint(p.a_offset + head)] + dt_bias[head];
    const float softplus = x > 20.0f ? x : precise::log(1.0f + precise::exp(x));
    const float kept = precise::exp(decay[head] * softplus);
    const float write = sigmoid(b[ulong(t) * uint(p.b_stride) + uint(p.b_offset + head)]);
    const float v = qkv[row + uint(p.v_offset + head * p.value_dim + column)];
    const float u = write * (v - kept * k_scale * simd_sum(predicted));
    float out = 0.0f;
    for (int r = 0; r < rows; r++) {
      const int d = r * 32 + int(lane);
      if (d >= p.key_dim) continue;
      s[r] = fma(k[d] * k_scale, u, kept * s[r]);
      out = fma(s[r], q[d] * q_scale, out);
    }
    out = simd_sum(out);
    if (lane == 0) y[(ulong(t) * uint(p.value_heads) + uint(head)) * uint(p.value_dim) + uint(column)] = out;
    const bool ends = t + 1 == p.tokens || token_sequence[t + 1] != sequence;
    if (!ends || slot < 0) continue;
    for (int r = 0; r < rows; r++) {
      const int d = r * 32 + int(lane);
      if (d < p.key_dim) state[((ulong(slot) * uint(p.value_heads) + uint(head)) * uint(p.key_dim) + uint(d)) * uint(p.value_dim) + uint(column)] = s[r];
    }
  }
}
