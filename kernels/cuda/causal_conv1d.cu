/*
 * y[t,c] = silu(sum over j of w[c,j] * x[t-taps+1+j,c]), j ascending, one chain of f32 fused multiply-adds; layouts and
 * state in ffi/psionic.h. A thread makes one channel of a piece of the batch. Who makes a sequence's first token makes
 * all that read its state, also those past the piece's end, and writes the state afterwards.
 */
#include "glu.cuh"
#include "recurrent.cuh"

namespace psi {

constexpr int CONV_THREADS = 128;

struct ConvArguments {
  float *y, *state;
  const float *x, *w;
  Recurrent r;
  i64 x_stride; /* x begins at the channels */
  i32 channels, piece;
};

/* One channel of one thread. */
template <int TAPS>
struct Convolution {
  const ConvArguments& p;
  i32 c;
  float w[TAPS];

  /* sum, then silu */
  __device__ __forceinline__ void make(i32 t, const float* in) {
    float sum = 0;
#pragma unroll
    for (int j = 0; j < TAPS; j++) sum = __fmaf_rn(w[j], in[j], sum);
    p.y[(i64)t * p.channels + c] = __fmul_rn(sum, gate_sigmoid(sum));
  }

  /* Row `at` of a run; below 0: what came before it. */
  __device__ __forceinline__ float input(i32 first, i32 at, i32 slot, bool fresh) const {
    if (at >= 0) return p.x[(first + at) * p.x_stride + c];
    return fresh ? 0.0f : p.state[((i64)slot * (TAPS - 1) + TAPS - 1 + at) * p.channels + c];
  }

  /* Tokens begin..end-1 and TAPS-1 before them are one sequence's. Eight at a time, so that as many reads are under way. */
  __device__ __forceinline__ void inner(i32 begin, i32 end) {
    constexpr int GROUP = 8, HISTORY = TAPS - 1;
    const float* x = p.x + (begin - HISTORY) * p.x_stride + c;
    float in[HISTORY + GROUP];
#pragma unroll
    for (int j = 0; j < HISTORY; j++, x += p.x_stride) in[j] = *x;
    for (i32 t = begin; t < end; t += GROUP) {
#pragma unroll
      for (int i = 0; i < GROUP; i++, x += p.x_stride) in[HISTORY + i] = t + i < end ? *x : 0.0f;
#pragma unroll
      for (int i = 0; i < GROUP; i++)
        if (t + i < end) make(t + i, in + i);
#pragma unroll
      for (int j = 0; j < HISTORY; j++) in[j] = in[GROUP + j];
    }
  }

  /* How many tokens of its sequence stand before t, as far as TAPS-1. */
  __device__ __forceinline__ i32 before(i32 t) const {
    const i32 sequence = p.r.sequence[t];
    i32 i = 0;
    while (i < TAPS - 1 && t > i && p.r.sequence[t - i - 1] == sequence) i++;
    return i;
  }

  __device__ __forceinline__ void outer(i32 begin, i32 end) {
    for (i32 t = begin; t < min(end + TAPS - 2, p.r.tokens); t++) {
      const i32 i = before(t), first = t - i;
      const bool own = i < TAPS - 1 ? first >= begin && first < end : t < end;
      if (!own) continue;
      const i32 slot = slot_of(p.r, p.r.sequence[t]);
      const bool fresh = slot < 0 || p.r.position[first] == 0;
      float in[TAPS];
#pragma unroll
      for (int j = 0; j < TAPS; j++) in[j] = input(first, i - (TAPS - 1) + j, slot, fresh);
      make(t, in);
    }
    for (i32 t = begin; t < end; t++)
      if (before(t) == 0) keep(t);
  }

  /* Rows from the oldest on: none is read after it was written. */
  __device__ __forceinline__ void keep(i32 first) const {
    const i32 slot = slot_of(p.r, p.r.sequence[first]);
    if (slot < 0) return;
    const bool fresh = p.r.position[first] == 0;
    const i32 count = run_end(p.r, first) - first;
#pragma unroll
    for (int row = 0; row < TAPS - 1; row++)
      p.state[((i64)slot * (TAPS - 1) + row) * p.channels + c] = input(first, count - (TAPS - 1) + row, slot, fresh);
  }
};

template <int TAPS>
__global__ void __launch_bounds__(CONV_THREADS) causal_conv1d_kernel(const __grid_constant__ ConvArguments p) {
  let_next_start();
  Convolution<TAPS> one = {p, (i32)(blockIdx.x * CONV_THREADS + threadIdx.x), {}};
  if (one.c < p.channels) {
#pragma unroll
    for (int j = 0; j < TAPS; j++) one.w[j] = p.w[(i64)one.c * TAPS + j];
  }
  wait_for_inputs();
  if (one.c >= p.channels) return;
  const i32 begin = blockIdx.y * p.piece, end = min(begin + p.piece, p.r.tokens);
  if (begin >= TAPS - 1 && p.r.sequence[begin - (TAPS - 1)] == p.r.sequence[end - 1]) one.inner(begin, end);
  else one.outer(begin, end);
}

}  // namespace psi

PSI_API i32 psi_causal_conv1d(void* y, void* state, const void* x, const void* w, const void* token_sequence, const void* token_position, const void* sequence_slot, i32 tokens, i32 x_stride, i32 x_offset, i32 channels, i32 taps, i32 sequences, i32 slots) {
  using namespace psi;
  const char* op = "psi_causal_conv1d";
  if (!y || !state || !x || !w) return fail(PSI_INVALID, "[%s] expected non-null pointers.", op);
  if (channels < 1 || x_offset < 0 || (i64)x_offset + channels > x_stride)
    return fail(PSI_INVALID, "[%s] expected channels inside rows of %d, got %d at %d.", op, x_stride, channels, x_offset);
  if (taps < 2 || taps > 8) return fail(PSI_INVALID, "[%s] expected 2 to 8 taps, got %d.", op, taps);
  const Recurrent r = {(const i32*)token_sequence, (const i32*)token_position, (const i32*)sequence_slot, tokens, sequences, slots};
  PSI_TRY(check_recurrent(op, r));
  /* few tokens: one a thread; many: the grid's y stays below its limit */
  const i32 piece = tokens <= 64 ? 1 : max(16, (i32)PSI_DIVIDE_UP(tokens, 32768));
  const ConvArguments p = {(float*)y, (float*)state, (const float*)x + x_offset, (const float*)w, r, x_stride, channels, piece};
  const dim3 grid((u32)PSI_DIVIDE_UP(channels, CONV_THREADS), (u32)PSI_DIVIDE_UP(tokens, piece)), block(CONV_THREADS);
  switch (taps) {
    case 2: return launch(op, causal_conv1d_kernel<2>, grid, block, 0, p);
    case 3: return launch(op, causal_conv1d_kernel<3>, grid, block, 0, p);
    case 4: return launch(op, causal_conv1d_kernel<4>, grid, block, 0, p);
    case 5: return launch(op, causal_conv1d_kernel<5>, grid, block, 0, p);
    case 6: return launch(op, causal_conv1d_kernel<6>, grid, block, 0, p);
    case 7: return launch(op, causal_conv1d_kernel<7>, grid, block, 0, p);
    default: return launch(op, causal_conv1d_kernel<8>, grid, block, 0, p);
  }
}
