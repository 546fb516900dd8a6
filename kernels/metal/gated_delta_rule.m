/* psi_gated_delta_rule: see gated_delta_rule.metal. */
#include "gated_delta_rule.h"

#include "launch.h"

static bool inside(i64 offset, i64 width, i64 row) { return offset >= 0 && offset + width <= row; }

PSI_API i32 psi_gated_delta_rule(void* y, void* state, const void* qkv, const void* a, const void* b, const void* decay, const void* dt_bias,
                                 const void* token_sequence, const void* token_position, const void* sequence_slot, i32 tokens, i32 stride, i32 q_offset, i32 k_offset,
                                 i32 v_offset, i32 a_stride, i32 a_offset, i32 b_stride, i32 b_offset, i32 key_heads, i32 value_heads, i32 key_dim, i32 value_dim,
                                 i32 sequences, i32 slots, i32 tiled) {
  const char* op = "psi_gated_delta_rule";
  PSI_TRY(PSI_CHECK_POINTERS(op, y, state, qkv, a, b, decay, dt_bias, token_sequence, token_position, sequence_slot));
  if (key_heads < 1 || value_heads < 1 || value_heads % key_heads || key_dim < 1 || key_dim > DELTA_MOST_KEYS || value_dim < 1)
    return psi_fail(PSI_INVALID, "[%s] expected value heads in multiples of the key heads, keys of 1 to %d and values, got %d heads of %d and %d of %d.", op, DELTA_MOST_KEYS,
                    key_heads, key_dim, value_heads, value_dim);
  const i64 keys = (i64)key_heads * key_dim;
  if (!inside(q_offset, keys, stride) || !inside(k_offset, keys, stride) || !inside(v_offset, (i64)value_heads * value_dim, stride))
    return psi_fail(PSI_INVALID, "[%s] expected q, k and v inside rows of %d, got them at %d, %d and %d.", op, stride, q_offset, k_offset, v_offset);
  if (!inside(a_offset, value_heads, a_stride) || !inside(b_offset, value_heads, b_stride))
    return psi_fail(PSI_INVALID, "[%s] expected %d gates inside rows of %d and %d, got them at %d and %d.", op, value_heads, a_stride, b_stride, a_offset, b_offset);
  if (tiled < 0 || tiled > 1) return psi_fail(PSI_INVALID, "[%s] expected tiled 0 or 1, got %d.", op, tiled);
  if (tokens < 0 || sequences < 1 || slots < 1)
    return psi_fail(PSI_INVALID, "[%s] expected tokens, sequences and slots, got %d, %d and %d.", op, tokens, sequences, slots);
  if (tokens == 0) return PSI_OK;
  PsiLaunch l = psi_kernel("gated_delta_rule", "gated_delta_rule_f32");
  psi_write(&l, 0, y, 4.0 * tokens * value_heads * value_dim);
  psi_write(&l, 1, state, 4.0 * slots * value_heads * key_dim * value_dim);
  psi_read(&l, 2, qkv, 4.0 * tokens * stride);
  psi_read(&l, 3, a, 4.0 * tokens * a_stride);
  psi_read(&l, 4, b, 4.0 * tokens * b_stride);
  psi_read(&l, 5, decay, 4.0 * value_heads);
  psi_read(&l, 6, dt_bias, 4.0 * value_heads);
  psi_read(&l, 7, token_sequence, 4.0 * tokens);
  psi_read(&l, 8, token_position, 4.0 * tokens);
  psi_read(&l, 9, sequence_slot, 4.0 * sequences);
  GatedDeltaRuleParams p = {tokens, stride, q_offset, k_offset, v_offset, a_stride, a_offset, b_stride, b_offset,
                            key_heads, value_heads, key_dim, value_dim, sequences, slots, tiled};
  psi_params(&l, 10, &p, sizeof p);
  return psi_launch(&l, PSI_DIVIDE_UP(value_dim, DELTA_THREADS / 32), value_heads, 1, DELTA_THREADS, 1, 1);
}
