/* What the two sets of tensor-core kernels for attention of whole sequences share. */
#pragma once
#include "causal_attention.h"
#include "round.cuh"

namespace psi {

constexpr int TILE = ATTENTION_TILE;

/* Sums of 16 rows x 64 columns, as A fragment of columns 16 step ... */
__device__ __forceinline__ void as_fragment(u32* a, const float (*s)[4], int step) {
  a[0] = pack_bf16(s[2 * step][0], s[2 * step][1]), a[1] = pack_bf16(s[2 * step][2], s[2 * step][3]);
  a[2] = pack_bf16(s[2 * step + 1][0], s[2 * step + 1][1]), a[3] = pack_bf16(s[2 * step + 1][2], s[2 * step + 1][3]);
}

/* Where rows of sums go: from element `from` on, in f32 or rounded; what rounding takes from them goes to `rest` where that is given. */
struct Place {
  void* p;
  i64 from;
  bool wide;
  void* rest;
};

template <int WARPS>
struct SeenRange {
  i32 least[WARPS], most[WARPS];
};

/* Least and largest of the first positions that a block's rows see. */
template <int WARPS>
__device__ __forceinline__ void seen_range(const CausalAttention& c, i32 sequence, i32 row0, i32 rows, SeenRange<WARPS>& shared, i32& least, i32& most) {
  const i32 last = min(row0 + rows, c.length) - 1;
  if (!c.first) {
    least = c.seen_from(sequence, row0), most = c.seen_from(sequence, last);
    return;
  }
  i32 low = c.length, high = 0;
  for (i32 r = row0 + threadIdx.x; r <= last; r += 32 * WARPS) {
    const i32 seen = c.seen_from(sequence, r);
    low = min(low, seen), high = max(high, seen);
  }
  for (int mask = 16; mask > 0; mask >>= 1) low = min(low, __shfl_xor_sync(~0u, low, mask)), high = max(high, __shfl_xor_sync(~0u, high, mask));
  if (threadIdx.x % 32 == 0) shared.least[threadIdx.x / 32] = low, shared.most[threadIdx.x / 32] = high;
  __syncthreads();
  least = shared.least[0], most = shared.most[0];
  for (int w = 1; w < WARPS; w++) least = min(least, shared.least[w]), most = max(most, shared.most[w]);
}

}  // namespace psi
