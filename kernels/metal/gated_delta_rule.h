#pragma once
enum { DELTA_THREADS = 128, DELTA_MOST_KEYS = 256 };
struct GatedDeltaRuleParams {
  int tokens, stride, q_offset, k_offset, v_offset, a_stride, a_offset, b_stride, b_offset;
  int key_heads, value_heads, key_dim, value_dim, sequences, slots, tiled;
};
typedef struct GatedDeltaRuleParams GatedDeltaRuleParams;
