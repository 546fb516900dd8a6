/*
 * The k largest of each row and their positions, descending, the lower position first on ties; NaN counts as -inf. A block
 * of 1024 threads per row. The k-th highest of the threads' own maxima is at most the k-th highest of the row: what is not
 * below it is listed and sorted. Where that is more than fits (k near 1024, or high logits that lie close together) the
 * bound is found digit by digit instead.
 */
#include "scores.cuh"

namespace psi {

constexpr int TOP_THREADS = 1024;
constexpr i32 TOP_MOST = 1024;
constexpr i32 TOP_LIST = 2048;

struct TopShared {
  union {
    word list[TOP_LIST];
    u32 counts[SCORE_BINS];
  };
  CrossingShared crossing;
  u32 listed;
};

__device__ __forceinline__ word top_score(float v, i32 id) { return score_of(v != v ? -INFINITY : v, id); }

/* Lists the scores from `bound` up; gives how many there are, also where they are more than fit. */
__device__ __forceinline__ u32 list_from(word bound, const float* row, i32 width, TopShared& s) {
  __syncthreads();
  if (threadIdx.x == 0) s.listed = 0;
  __syncthreads();
  each_of_row<TOP_THREADS>(row, width, [&](float v, i32 id) {
    const word score = top_score(v, id);
    if (score < bound) return;
    const u32 at = atomicAdd(&s.listed, 1u);
    if (at < TOP_LIST) s.list[at] = score;
  });
  __syncthreads();
  return s.listed;
}

/* A bound with at least k scores from it up, and at most TOP_LIST. */
__device__ __forceinline__ word exact_bound(const float* row, i32 width, i32 k, TopShared& s) {
  constexpr word BETWEEN = 0xffffffffu & ~((word)SCORE_WIDEST - 1);
  word known = 0, prefix = 0, above = 0;
#pragma unroll
  for (int d = 0; d < SCORE_DIGITS; d++) {
    const word digits = ((word)1 << digit_bits(d)) - 1;
    __syncthreads();
    for (i32 b = threadIdx.x; b < SCORE_BINS; b += TOP_THREADS) s.counts[b] = 0;
    __syncthreads();
    each_of_row<TOP_THREADS>(row, width, [&](float v, i32 id) {
      const word score = top_score(v, id);
      if ((score & known) == prefix) atomicAdd(&s.counts[digits - (score >> digit_shift(d) & digits)], 1u);
    });
    __syncthreads();
    const Crossing digit = crossing<TOP_THREADS>(s.counts, s.crossing, [&](word) { return (word)k - above; });
    known |= digits << digit_shift(d);
    prefix |= (digits - (word)digit.bin) << digit_shift(d);
    if (d == 3) known |= BETWEEN, prefix |= BETWEEN;
    above += digit.before;
    if (above + s.counts[digit.bin] <= TOP_LIST) break;
  }
  return prefix;
}

__global__ void __launch_bounds__(TOP_THREADS) top_k_kernel(float* values, i32* ids, const float* x, i32 width, i32 k) {
  __shared__ TopShared s;
  let_next_start();
  wait_for_inputs();
  const float* row = x + (i64)blockIdx.x * width;
  word own = 0;
  each_of_row<TOP_THREADS>(row, width, [&](float v, i32 id) { own = max(own, top_score(v, id)); });
  s.list[threadIdx.x] = own;
  sort_scores<TOP_THREADS>(s.list, TOP_THREADS);
  const word bound = s.list[k - 1];
  u32 count = list_from(bound, row, width, s);
  if (count > TOP_LIST) count = list_from(exact_bound(row, width, k, s), row, width, s);
  i32 room = 1;
  while (room < (i32)count) room *= 2;
  for (i32 i = count + threadIdx.x; i < room; i += TOP_THREADS) s.list[i] = 0;
  sort_scores<TOP_THREADS>(s.list, room);
  for (i32 i = threadIdx.x; i < k; i += TOP_THREADS) {
    const i32 id = id_of(s.list[i]);
    const float v = row[id]; /* the list has one zero for both */
    values[(i64)blockIdx.x * k + i] = v != v ? -INFINITY : v;
    ids[(i64)blockIdx.x * k + i] = id;
  }
}

}  // namespace psi

PSI_API i32 psi_top_k(void* values, void* ids, const void* x, i32 rows, i32 width, i32 k) {
  using namespace psi;
  if (!values || !ids || !x || rows < 0 || k < 1 || k > width)
    return fail(PSI_INVALID, "[psi_top_k] expected non-null pointers and k from 1 to the width %d, got %d.", width, k);
  if (k > TOP_MOST) return fail(PSI_UNSUPPORTED, "[psi_top_k] expected k of at most %d on CUDA, got %d.", TOP_MOST, k);
  if (width > SCORE_WIDEST) return fail(PSI_UNSUPPORTED, "[psi_top_k] expected rows of at most %d on CUDA, got %d.", SCORE_WIDEST, width);
  return launch("psi_top_k", top_k_kernel, dim3((unsigned)rows), dim3(TOP_THREADS), 0, (float*)values, (i32*)ids, (const float*)x, width, k);
}
