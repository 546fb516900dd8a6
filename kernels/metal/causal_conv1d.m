/* psi_causal_conv1d: see causal_conv1d.metal. */
#include "causal_conv1d.h"

#include "launch.h"

PSI_API i32 psi_causal_conv1d(void* y, void* state, const void* x, const void* w, const void* token_sequence, const void* token_position, const void* sequence_slot,
                              i32 tokens, i32 x_stride, i32 x_offset, i32 channels, i32 taps, i32 sequences, i32 slots) {
  const char* op = "psi_causal_conv1d";
  PSI_TRY(PSI_CHECK_POINTERS(op, y, state, x, w, token_sequence, token_position, sequence_slot));
  if (channels < 1 || x_offset < 0 || (i64)x_offset + channels > x_stride)
    return psi_fail(PSI_INVALID, "[%s] expected channels inside rows of %d, got %d at %d.", op, x_stride, channels, x_offset);
  if (taps < 2 || taps > CONV_MOST_TAPS) return psi_fail(PSI_INVALID, "[%s] expected 2 to %d taps, got %d.", op, CONV_MOST_TAPS, taps);
  if (tokens < 0 || sequences < 1 || slots < 1)
    return psi_fail(PSI_INVALID, "[%s] expected tokens, sequences and slots, got %d, %d and %d.", op, tokens, sequences, slots);
  if (tokens == 0) return PSI_OK;
  PsiLaunch l = psi_kernel("causal_conv1d", "causal_conv1d_f32");
  psi_write(&l, 0, y, 4.0 * tokens * channels);
  psi_write(&l, 1, state, 4.0 * slots * (taps - 1) * channels);
  psi_read(&l, 2, x, 4.0 * tokens * x_stride);
  psi_read(&l, 3, w, 4.0 * channels * taps);
  psi_read(&l, 4, token_sequence, 4.0 * tokens);
  psi_read(&l, 5, token_position, 4.0 * tokens);
  psi_read(&l, 6, sequence_slot, 4.0 * sequences);
  CausalConv1dParams p = {tokens, x_stride, x_offset, channels, taps, sequences, slots};
  psi_params(&l, 7, &p, sizeof p);
  return psi_launch(&l, PSI_DIVIDE_UP(channels, 64), 1, 1, 64, 1, 1);
}
