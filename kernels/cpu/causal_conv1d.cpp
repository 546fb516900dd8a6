/*
 * y[t,c] = silu(sum over j of w[c,j] * x[t-taps+1+j,c]), j ascending: x f32 rows of x_stride with the channels from
 * x_offset, w f32 [channels, taps], y f32 [tokens, channels]. What came before a sequence's first token in the batch
 * stands in state f32 [slots, taps-1, channels], oldest first; zeros where that token has position 0. Afterwards the
 * state holds the sequence's last taps-1 inputs. Sums are f32 chains of fused multiply-adds.
 * Tasks: pieces of 256 channels by 64 tokens; then, when all have read the states, pieces of sequences by 1024 channels.
 */
#include <math.h>

#include "../common/pool.h"
#include "../common/simd.h"
#include "recurrent.h"

namespace psi {
constexpr i64 MAX_TAPS = 8;
struct CausalConv1d {
  float *y, *state;
  const float *x, *w;
  Recurrent r;
  i64 x_stride, x_offset, channels, taps;
};

/* The input `back` tokens before the `i`-th token of a run that begins with batch row `first`; null: zeros. */
static inline const float* conv_input(const CausalConv1d& a, i64 first, i64 i, i64 back) {
  const i64 at = i - back;
  if (at >= 0) return a.x + (first + at) * a.x_stride + a.x_offset;
  if (a.r.position[first] == 0) return nullptr;
  return a.state + (a.r.slot_of(first) * (a.taps - 1) + a.taps - 1 + at) * a.channels;
}
}  // namespace psi

PSI_KERNEL(causal_conv1d, const CausalConv1d& a)

namespace psi::PSI_ISA {

constexpr i64 CHANNELS = 256, TOKENS = 64;

/* Columns from..to of one token, whose inputs are at `rows`; w by taps. */
static void convolve(float* y, const float* const* rows, const float (*w)[CHANNELS], i64 taps, i64 from, i64 to) {
  for (i64 c = from; c < to; c += 16) {
    const int m = (int)(to - c < 16 ? to - c : 16);
    vf sum = zero();
    for (i64 j = 0; j < taps; j++) {
      const vf x = rows[j] ? load_n(rows[j] + c, m) : zero();
      sum = fma(load(w[j] + c - from), x, sum);
    }
    store_n(y + c, sum / (set1(1.0f) + exp(zero() - sum)), m);
  }
}

static void outputs(const CausalConv1d& a, i64 begin, i64 end, i64 from, i64 to) {
  float w[MAX_TAPS][CHANNELS] = {};
  for (i64 c = from; c < to; c++)
    for (i64 j = 0; j < a.taps; j++) w[j][c - from] = a.w[c * a.taps + j];
  for (i64 t = begin; t < end; t++) {
    /* how far back the run goes, as far as it matters */
    i64 i = 0;
    while (i < a.taps - 1 && t - i > 0 && a.r.sequence[t - i - 1] == a.r.sequence[t]) i++;
    const float* rows[MAX_TAPS];
    for (i64 j = 0; j < a.taps; j++) rows[j] = conv_input(a, t - i, i, a.taps - 1 - j);
    convolve(a.y + t * a.channels, rows, w, a.taps, from, to);
  }
}

/* Rows of the state from the oldest on: none is read after it was written. */
static void keep(const CausalConv1d& a, i64 first, i64 count, i64 from, i64 to) {
  float* state = a.state + a.r.slot_of(first) * (a.taps - 1) * a.channels;
  for (i64 r = 0; r < a.taps - 1; r++) {
    const float* row = conv_input(a, first, count - 1, a.taps - 2 - r);
    if (row) memmove(state + r * a.channels + from, row + from, (size_t)(to - from) * 4);
    else memset(state + r * a.channels + from, 0, (size_t)(to - from) * 4);
  }
}

void causal_conv1d(const CausalConv1d& a) {
  const i64 across = (a.channels + CHANNELS - 1) / CHANNELS, along = (a.r.tokens + TOKENS - 1) / TOKENS;
  parallel(across * along, [&](i64 task, int) {
    const i64 begin = task / across * TOKENS, from = task % across * CHANNELS;
    outputs(a, begin, begin + TOKENS < a.r.tokens ? begin + TOKENS : a.r.tokens, from, from + CHANNELS < a.channels ? from + CHANNELS : a.channels);
  });
  const i64 piece = 4 * CHANNELS, pieces = (a.channels + piece - 1) / piece;
  parallel(a.r.sequences * pieces, [&](i64 task, int) {
    const i64 from = task % pieces * piece;
    const Run run = a.r.run(task / pieces);
    if (run.count > 0) keep(a, run.first, run.count, from, from + piece < a.channels ? from + piece : a.channels);
  });
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
#define PSI_CONV_ARGUMENTS void *y, void *state, const void *x, const void *w, const void *token_sequence, const void *token_position, const void *sequence_slot, i32 tokens, i32 x_stride, i32 x_offset, i32 channels, i32 taps, i32 sequences, i32 slots
#define PSI_CONV_STRUCT                                                                                                   \
  {(float*)y, (float*)state, (const float*)x, (const float*)w,                                                            \
   {(const i32*)token_sequence, (const i32*)token_position, (const i32*)sequence_slot, tokens, sequences, slots}, x_stride, \
   x_offset, channels, taps}

static i32 check_conv(const char* where, const psi::CausalConv1d& a) {
  if (!a.y || !a.state || !a.x || !a.w) return psi::fail(PSI_INVALID, "[%s] expected non-null pointers.", where);
  if (a.channels < 1 || a.x_offset < 0 || a.x_offset + a.channels > a.x_stride)
    return psi::fail(PSI_INVALID, "[%s] expected channels inside rows of %lld, got %lld at %lld.", where, (long long)a.x_stride, (long long)a.channels, (long long)a.x_offset);
  if (a.taps < 2 || a.taps > psi::MAX_TAPS) return psi::fail(PSI_INVALID, "[%s] expected 2 to %lld taps, got %lld.", where, (long long)psi::MAX_TAPS, (long long)a.taps);
  return psi::check_recurrent(where, a.r);
}

PSI_API i32 psi_causal_conv1d(PSI_CONV_ARGUMENTS) {
  PSI_OPENED("psi_causal_conv1d");
  const psi::CausalConv1d a = PSI_CONV_STRUCT;
  i32 status = check_conv("psi_causal_conv1d", a);
  if (status != PSI_OK) return status;
  PSI_RUN(causal_conv1d)(a);
  return PSI_OK;
}

/* One token after the other, with the state as a queue. */
PSI_API i32 psi_causal_conv1d_ref(PSI_CONV_ARGUMENTS) {
  const psi::CausalConv1d a = PSI_CONV_STRUCT;
  i32 status = check_conv("psi_causal_conv1d_ref", a);
  if (status != PSI_OK) return status;
  for (i64 t = 0; t < tokens; t++)
    for (i64 c = 0; c < channels; c++) {
      float* queue = a.state + a.r.slot_of(t) * (taps - 1) * channels + c;
      const float in = a.x[t * x_stride + x_offset + c];
      if (a.r.position[t] == 0)
        for (i64 r = 0; r < taps - 1; r++) queue[r * channels] = 0;
      double sum = 0;
      for (i64 j = 0; j < taps; j++) sum += (double)a.w[c * taps + j] * (j < taps - 1 ? queue[j * channels] : in);
      a.y[t * channels + c] = (float)(sum / (1 + exp(-sum)));
      for (i64 r = 0; r < taps - 2; r++) queue[r * channels] = queue[(r + 1) * channels];
      queue[(taps - 2) * channels] = in;
    }
  return PSI_OK;
}
#endif
