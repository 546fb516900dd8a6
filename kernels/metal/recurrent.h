/* Which tokens of a flat batch belong to which sequence, and where its state lies: causal_conv1d and gated_delta_rule. */
#pragma once

/* The slot of a sequence; -1: it has none, begins from zeros and keeps nothing. */
static inline int slot_of(device const int* sequence_slot, int sequence, int sequences, int slots) {
  if (sequence < 0 || sequence >= sequences) return -1;
  const int slot = sequence_slot[sequence];
  return slot >= 0 && slot < slots ? slot : -1;
}
