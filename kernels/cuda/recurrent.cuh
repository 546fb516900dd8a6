/* Which tokens of a flat batch belong to which sequence, and where its state lies: causal_conv1d and gated_delta_chunks. */
#pragma once
#include "instructions.h"

namespace psi {

struct Recurrent {
  const i32 *sequence, *position, *slot;
  i32 tokens, sequences, slots;
};

/* The slot of a sequence; -1: it has none, begins from zeros and keeps nothing. */
__device__ __forceinline__ i32 slot_of(const Recurrent& r, i32 sequence) {
  if (sequence < 0 || sequence >= r.sequences) return -1;
  const i32 slot = r.slot[sequence];
  return slot < r.slots ? slot : -1;
}

/* One past the last token of the run that begins at `first`: tokens of a sequence stand together. */
__device__ __forceinline__ i32 run_end(const Recurrent& r, i32 first) {
  const i32 sequence = r.sequence[first];
  i32 inside = first, step = 1;
  while (inside + step < r.tokens && r.sequence[inside + step] == sequence) inside += step, step *= 2;
  i32 outside = min(inside + step, r.tokens);
  while (outside - inside > 1) {
    const i32 middle = (inside + outside) / 2;
    if (r.sequence[middle] == sequence) inside = middle;
    else outside = middle;
  }
  return outside;
}

/* The tokens of a sequence, from, to; none: from = r.tokens. All THREADS come here; shared: THREADS / 32. */
template <int THREADS>
__device__ __forceinline__ int2 find_run(const Recurrent& r, i32 sequence, int2* shared) {
  i32 first = r.tokens, last = -1;
#pragma unroll 8
  for (i32 t = threadIdx.x; t < r.tokens; t += THREADS)
    if (r.sequence[t] == sequence) first = min(first, t), last = t;
  for (int mask = 16; mask > 0; mask >>= 1) {
    first = min(first, __shfl_xor_sync(~0u, first, mask));
    last = max(last, __shfl_xor_sync(~0u, last, mask));
  }
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = {first, last};
  __syncthreads();
#pragma unroll
  for (int w = 0; w < THREADS / 32; w++) first = min(first, shared[w].x), last = max(last, shared[w].y);
  return {first, last + 1};
}

inline i32 check_recurrent(const char* where, const Recurrent& r) {
  if (!r.sequence || !r.position || !r.slot) return fail(PSI_INVALID, "[%s] expected non-null pointers.", where);
  if (r.tokens < 0 || r.sequences < 1 || r.slots < 1)
    return fail(PSI_INVALID, "[%s] expected tokens, sequences and slots, got %d, %d and %d.", where, r.tokens, r.sequences, r.slots);
  return PSI_OK;
}

}  // namespace psi
