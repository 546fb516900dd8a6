/*
 * What the kernels of psi_sample share: the records (src/ir/ops/sample.ts writes them), the work memory of a row, bins of
 * logits and weights as integers.
 *
 * A weight exp(x - top) is at most 1 and kept as an integer in units of 2^-44: sums of integers do not depend on their
 * order, so threads may add as they come. What a sum of 2^19 weights lacks by that is below 2^-26 of the top weight.
 */
#pragma once
#include "block_sum.cuh"
#include "scores.cuh"

namespace psi {

struct SampleRecord {
  i32 row; /* of the logits */
  i32 flags;
  i32 top_k;       /* 0: all */
  i32 mask;        /* row of the masks; -1: none */
  i32 first_entry; /* its entries stand one after the other */
  i32 entries;
  f64 temperature, top_p, min_p;
  f64 place; /* the uniform number in [0, 1) that decides */
  f64 repeat, frequency, presence;
};
static_assert(sizeof(SampleRecord) == 80, "as in src/ir/ops/sample.ts");
constexpr i32 SAMPLE_GREEDY = 1, SAMPLE_LOGPROB = 2;

struct SampleEntry {
  i32 token;
  i32 count; /* in the penalty window; 0: no repeat penalties */
  f64 bias;  /* added first */
  f64 loss;  /* subtracted last */
};
static_assert(sizeof(SampleEntry) == 24, "as in src/ir/ops/sample.ts");

constexpr i32 SAMPLE_WIDEST = SCORE_WIDEST;
constexpr i32 SAMPLE_PIECE = 8192; /* elements of a row that a block of the first kernels takes */
constexpr i32 SAMPLE_PIECES = SAMPLE_WIDEST / SAMPLE_PIECE;
constexpr i32 SAMPLE_BINS = SCORE_BINS;
constexpr float BINS_PER_UNIT = 32.0f;
constexpr i32 SAMPLE_LIST = 2048; /* candidates that are sorted; a power of two */

struct SamplePiece {
  word best;    /* the highest score */
  word warm;    /* sum of weights at the temperature */
  f64 raw_sum;  /* of exp(x - raw_top) over the logits as the model gave them */
  f64 raw_top;
};
/* Logits counted by their distance from the highest one. */
struct SampleTally {
  word mass[SAMPLE_BINS]; /* weights at temperature 1 */
  word warm[SAMPLE_BINS]; /* at the record's temperature */
  u32 counts[SAMPLE_BINS];
};
struct SampleWork {
  SampleTally tally;
  word list[SAMPLE_LIST]; /* scores of the candidates, in any order */
  SamplePiece pieces[SAMPLE_PIECES];
  u32 listed;
  u32 broken; /* an entry names a token that does not exist */
  u32 unused[2];
};
static_assert(sizeof(SampleWork) == 59408, "as in src/ir/ops/sample.ts");

struct SampleArguments {
  i32* ids;
  float* logprobs;
  float* logits;
  const SampleRecord* records;
  const SampleEntry* entries;
  const u32* masks;
  SampleWork* work;
  float* saved; /* logits that entries changed */
  i32 rows, width, entry_count, mask_count;
  bool draws;
};

/* ---- logits and their order ---- */

__device__ __forceinline__ bool finite_top(word best) { return best != 0 && fabsf(logit_of(best)) != INFINITY; }

/* Whole in that a higher logit never has a higher bin. */
__device__ __forceinline__ i32 bin_of(float top, float v) {
  float distance = (top - v) * BINS_PER_UNIT;
  return distance < (float)(SAMPLE_BINS - 1) ? (i32)distance : SAMPLE_BINS - 1;
}

constexpr f64 WEIGHT_ONE = 17592186044416.0; /* 2^44 */

/* exp(x) for x <= 0; NaN gives 0. */
__device__ __forceinline__ word weight_of(f64 x) { return x > -31.5 ? (word)(exp(x) * WEIGHT_ONE + 0.5) : 0; }

__device__ __forceinline__ bool allowed(const u32* mask, i32 id) { return !mask || (mask[id / 32] >> (id % 32) & 1); }

/* ---- records ---- */

__device__ __forceinline__ bool usable(const SampleArguments& a, const SampleRecord& r) {
  return r.row >= 0 && r.row < a.rows && r.top_k >= 0 && r.mask >= -1 && r.mask < a.mask_count && r.entries >= 0 && r.first_entry >= 0 &&
         (i64)r.first_entry + r.entries <= a.entry_count &&
         ((r.flags & SAMPLE_GREEDY) || (a.draws && r.temperature > 0 && r.top_p >= 0 && r.min_p >= 0 && r.min_p <= 1 && r.place >= 0 && r.place < 1));
}
__device__ __forceinline__ bool greedy(const SampleRecord& r) { return r.flags & SAMPLE_GREEDY; }
/* Whether the k highest can be sorted: then nothing of the others is needed but how many they are. */
__device__ __forceinline__ bool ranked(const SampleRecord& r) { return r.top_k > 0 && r.top_k <= SAMPLE_LIST; }
/* Whether anything but the draw chooses; if not, tokens are drawn in order of their ids. */
__device__ __forceinline__ bool narrows(const SampleRecord& r) { return r.top_k > 0 || r.top_p < 1 || r.min_p > 0; }
__device__ __forceinline__ const u32* mask_of(const SampleArguments& a, const SampleRecord& r) {
  return r.mask < 0 ? nullptr : a.masks + (i64)r.mask * ((a.width + 31) / 32);
}

/* ---- over a block ---- */

/* Every thread gets the highest score of a row's pieces. `shared`: one word; ends in a barrier. */
__device__ __forceinline__ word row_best(const SamplePiece* pieces, i32 count, word* shared) {
  if (threadIdx.x < 32) {
    word best = 0;
    for (i32 p = threadIdx.x; p < count; p += 32)
      if (pieces[p].best > best) best = pieces[p].best;
    best = warp_highest(best);
    if (threadIdx.x == 0) *shared = best;
  }
  __syncthreads();
  return *shared;
}

/* What must be reached when a share of `total` is wanted: sums are whole, so "above" is "one more". */
__device__ __forceinline__ word needed(f64 share, word total, bool above) {
  f64 limit = share * (f64)total;
  word need = above ? (word)limit + 1 : (word)ceil(limit);
  return need < 1 ? 1 : need > total ? total : need;
}

}  // namespace psi
