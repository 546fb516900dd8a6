/* Logits in their order, as integers: sorting them, and searches in prefix sums, by one block. */
#pragma once
#include "instructions.h"

namespace psi {

typedef unsigned long long word;

/* Higher for higher logits, then for lower ids; 0 for NaN. */
__device__ __forceinline__ word score_of(float v, i32 id) {
  if (v != v) return 0;
  u32 bits = __float_as_uint(v + 0.0f); /* both zeros alike */
  u32 key = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return (word)key << 32 | (0xffffffffu - (u32)id);
}
__device__ __forceinline__ i32 id_of(word score) { return score == 0 ? 0 : (i32)(0xffffffffu - (u32)score); }
__device__ __forceinline__ float logit_of(word score) {
  u32 key = (u32)(score >> 32);
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}
/* The lowest score of a logit that is at least `least`. */
__device__ __forceinline__ word score_from(f64 least) {
  float v = (float)least;
  if ((f64)v < least) v = nextafterf(v, INFINITY);
  return score_of(v, 0) & ~(word)0xffffffffu;
}

/*
 * body(value, id) for the elements of a row that belong to this thread of THREADS, in rising order: every THREADS-th four.
 * 16-byte loads where the row allows, some in flight; the elements of a thread are the same either way.
 */
template <int THREADS, class Body>
__device__ __forceinline__ void each_of_row(const float* row, i32 width, Body body) {
  constexpr int FLIGHT = 4, STEP = THREADS * 4;
  i32 k = threadIdx.x * 4;
  if (width % 4 == 0 && (uintptr_t)row % 16 == 0) {
    for (; k + (FLIGHT - 1) * STEP < width; k += FLIGHT * STEP) {
      float4 v[FLIGHT];
#pragma unroll
      for (int i = 0; i < FLIGHT; i++) v[i] = *(const float4*)(row + k + i * STEP);
#pragma unroll
      for (int i = 0; i < FLIGHT; i++) {
        const i32 at = k + i * STEP;
        body(v[i].x, at), body(v[i].y, at + 1), body(v[i].z, at + 2), body(v[i].w, at + 3);
      }
    }
  }
  for (; k < width; k += STEP)
    for (i32 i = k; i < min(k + 4, width); i++) body(row[i], i);
}

__device__ __forceinline__ word warp_highest(word v) {
  for (int step = 16; step > 0; step >>= 1) {
    word other = __shfl_xor_sync(~0u, v, step);
    if (other > v) v = other;
  }
  return v;
}

/* Highest first; `count` a power of two. Every thread of the block takes part; the last step is a barrier. */
template <int THREADS>
__device__ __forceinline__ void sort_scores(word* scores, i32 count) {
  for (i32 size = 2; size <= count; size *= 2)
    for (i32 step = size / 2; step > 0; step /= 2) {
      __syncthreads();
      for (i32 i = threadIdx.x; i < count / 2; i += THREADS) {
        const i32 low = i / step * 2 * step + i % step, high = low + step;
        const word a = scores[low], b = scores[high];
        if ((a < b) == ((low & size) == 0)) scores[low] = b, scores[high] = a;
      }
    }
  __syncthreads();
}

/* The sum over the threads up to this one. `shared`: 32 words, free again after the next barrier. */
__device__ __forceinline__ word block_scan(word v, word* shared, word* total) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  for (int step = 1; step < 32; step <<= 1) {
    word other = __shfl_up_sync(~0u, v, step);
    if (lane >= step) v += other;
  }
  if (lane == 31) shared[warp] = v;
  __syncthreads();
  word before = 0, all = 0;
  for (int w = 0; w < warps; w++) {
    if (w < warp) before += shared[w];
    all += shared[w];
  }
  *total = all;
  return before + v;
}

constexpr i32 SCORE_BINS = 2048;

struct Crossing {
  i32 bin;
  word before; /* sum of the bins ahead of it */
};
struct CrossingShared {
  word warps[32];
  Crossing found;
};

/* The first of SCORE_BINS bins up to which `sums` add up to what `need(total)` says; the first of all when they are all 0. */
template <int THREADS, class Sum, class Need>
__device__ __forceinline__ Crossing crossing(const Sum* sums, CrossingShared& s, Need need) {
  constexpr int EACH = SCORE_BINS / THREADS;
  const Sum* own = sums + threadIdx.x * EACH;
  word sum = 0, total;
  for (int i = 0; i < EACH; i++) sum += own[i];
  word upto = block_scan(sum, s.warps, &total);
  const word wanted = need(total);
  if (threadIdx.x == 0) s.found = {0, 0};
  __syncthreads();
  word before = upto - sum;
  if (total > 0 && before < wanted && upto >= wanted) {
    int i = 0;
    for (; before + own[i] < wanted; i++) before += own[i];
    s.found = {(i32)(threadIdx.x * EACH + i), before};
  }
  __syncthreads();
  Crossing found = s.found;
  __syncthreads();
  return found;
}

/* The digits in which scores are searched from above: 32 bits of the logit, then 19 of the id; between them are ones. */
constexpr int SCORE_DIGITS = 5;
__host__ __device__ constexpr i32 digit_bits(int digit) { return digit < 2 ? 11 : digit < 4 ? 10 : 9; }
__host__ __device__ constexpr i32 digit_shift(int digit) { return digit == 0 ? 53 : digit == 1 ? 42 : digit == 2 ? 32 : digit == 3 ? 9 : 0; }
constexpr i32 SCORE_WIDEST = 1 << 19; /* ids */

}  // namespace psi
