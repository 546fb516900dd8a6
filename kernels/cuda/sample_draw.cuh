/*
 * Choosing from the candidates of a row, by one block: from a sorted list of up to 2048, from all in order of their ids, or
 * from more than can be sorted. The stages and their order are those of src/serve/engine/sampler.ts.
 */
#pragma once
#include "sample.cuh"

namespace psi {

constexpr int FINISH_THREADS = 1024;

struct ListCut {
  i32 last; /* candidates are in the bins up to this one */
  u32 count;
};

/* The bins that hold every token the record may keep. `sums`: SAMPLE_BINS words of shared memory. */
template <int THREADS>
__device__ __forceinline__ ListCut list_cut(const SampleRecord& r, const SampleTally& tally, word best, word* sums, CrossingShared& s) {
  i32 last = SAMPLE_BINS - 1;
  if (r.top_k > 0 || r.top_p < 1) {
    for (i32 b = threadIdx.x; b < SAMPLE_BINS; b += THREADS) sums[b] = r.top_k > 0 ? tally.counts[b] : tally.mass[b];
    __syncthreads();
    last = crossing<THREADS>(sums, s, [&](word total) {
             return r.top_k > 0 ? min((word)r.top_k, total) : needed(r.top_p, total, false);
           }).bin;
  }
  /* top-p after top-k is a share of all the k, those below the floor too */
  if (r.min_p > 0 && !(r.top_k > 0 && r.top_p < 1)) {
    const float top = logit_of(best);
    last = min(last, bin_of(top, logit_of(score_from((f64)top + log(r.min_p)))));
  }
  word count = 0, total;
  for (i32 b = threadIdx.x; b <= last; b += THREADS) count += tally.counts[b];
  block_scan(count, s.warps, &total);
  __syncthreads();
  return {last, (u32)min(total, (word)0xffffffffu)};
}

struct ListShared {
  word scores[SAMPLE_LIST];
  f64 weights[SAMPLE_LIST];
  f64 total;
  i32 kept, token;
};

/* weights = exp((x - from) / by) for the first `count`, in f64 as the host has them. */
__device__ __forceinline__ void weigh(ListShared& s, i32 count, f64 from, f64 by) {
  for (i32 i = threadIdx.x; i < count; i += FINISH_THREADS) {
    f64 w = exp(((f64)logit_of(s.scores[i]) - from) / by);
    s.weights[i] = w > 0 ? w : 0;
  }
  __syncthreads();
}

/* Sums run in the order of the list, by one thread: they are the host's. */
__device__ __forceinline__ i32 draw_from_list(const SampleRecord& r, const word* list, i32 count, f64 row_sum, ListShared& s) {
  i32 room = 1;
  while (room < count) room *= 2;
  for (i32 i = threadIdx.x; i < room; i += FINISH_THREADS) s.scores[i] = i < count ? list[i] : 0;
  sort_scores<FINISH_THREADS>(s.scores, room);
  if (r.top_k > 0) count = min(count, r.top_k);
  const f64 top = (f64)logit_of(s.scores[0]);
  if (r.top_p < 1) {
    if (r.top_k > 0) {
      weigh(s, count, top, 1.0);
      if (threadIdx.x == 0) {
        f64 sum = 0;
        for (i32 i = 0; i < count; i++) sum += s.weights[i];
        s.total = top + log(sum);
      }
    } else if (threadIdx.x == 0) s.total = top + log(row_sum);
    __syncthreads();
    weigh(s, count, s.total, 1.0);
    if (threadIdx.x == 0) {
      f64 sum = 0;
      i32 n = 0;
      do sum += s.weights[n++];
      while (n < count && !(sum >= r.top_p));
      s.kept = n;
    }
    __syncthreads();
    count = s.kept;
  }
  if (r.min_p > 0) {
    const f64 floor = top + log(r.min_p);
    __syncthreads();
    for (i32 i = threadIdx.x; i < count; i += FINISH_THREADS) {
      const bool in = i == 0 || (f64)logit_of(s.scores[i]) >= floor;
      const bool next = i + 1 < count && (f64)logit_of(s.scores[i + 1]) >= floor;
      if (in && !next) s.kept = i + 1;
    }
    __syncthreads();
    count = s.kept;
  }
  weigh(s, count, top, r.temperature);
  if (threadIdx.x == 0) {
    f64 total = 0, sum = 0;
    for (i32 i = 0; i < count; i++) total += s.weights[i];
    const f64 place = r.place * total;
    i32 last = 0;
    for (i32 i = 0; i < count; i++) {
      if (s.weights[i] == 0) continue;
      sum += s.weights[i];
      last = i;
      if (place < sum) break;
    }
    s.token = id_of(s.scores[last]);
  }
  __syncthreads();
  return s.token;
}

/* A row as the record sees it: entries are applied already, the mask is not. */
struct RowView {
  const float* logits;
  const u32* mask;
  i32 width;
  __device__ __forceinline__ float at(i32 id) const { return allowed(mask, id) ? logits[id] : -INFINITY; }
};

struct WideShared {
  word sums[SAMPLE_BINS];
  CrossingShared crossing;
  i32 token;
};

/* In order of ids, nothing left out: the pieces' sums are known. */
__device__ __forceinline__ i32 draw_in_order(const SampleRecord& r, const RowView& row, const SamplePiece* pieces, word best, WideShared& s) {
  const i32 count = PSI_DIVIDE_UP(row.width, SAMPLE_PIECE);
  for (i32 p = threadIdx.x; p < SAMPLE_BINS; p += FINISH_THREADS) s.sums[p] = p < count ? pieces[p].warm : 0;
  __syncthreads();
  word need = 0;
  const Crossing piece = crossing<FINISH_THREADS>(s.sums, s.crossing, [&](word total) { return need = needed(r.place, total, true); });
  constexpr i32 EACH = SAMPLE_PIECE / FINISH_THREADS;
  const i32 first = piece.bin * SAMPLE_PIECE + threadIdx.x * EACH;
  const f64 top = (f64)logit_of(best);
  word own[EACH], sum = 0, total;
  for (i32 i = 0; i < EACH; i++) {
    own[i] = first + i < row.width ? weight_of(((f64)row.at(first + i) - top) / r.temperature) : 0;
    sum += own[i];
  }
  const word upto = block_scan(sum, s.crossing.warps, &total);
  word before = piece.before + upto - sum;
  if (before < need && piece.before + upto >= need) {
    i32 i = 0;
    for (; before + own[i] < need; i++) before += own[i];
    s.token = first + i;
  }
  __syncthreads();
  return s.token;
}

/* A token's share in a search. */
enum SampleShare { SHARE_ONE, SHARE_MASS, SHARE_WARM };

struct WideRow {
  RowView row;
  const SampleTally* tally;
  float top;
  f64 temperature;
  word cut; /* tokens of at least this score are in */

  __device__ __forceinline__ word share(SampleShare kind, float v) const {
    if (kind == SHARE_ONE) return 1;
    const f64 d = (f64)v - (f64)top;
    return weight_of(kind == SHARE_MASS ? d : d / temperature);
  }
  __device__ __forceinline__ word counted(SampleShare kind, i32 bin) const {
    return kind == SHARE_ONE ? (word)tally->counts[bin] : kind == SHARE_MASS ? tally->mass[bin] : tally->warm[bin];
  }
  template <class Body>
  __device__ __forceinline__ void each_in(i32 bin, Body body) const {
    for (i32 id = threadIdx.x; id < row.width; id += FINISH_THREADS) {
      const float v = row.at(id);
      const word score = score_of(v, id);
      if (score >= cut && bin_of(top, v) == bin) body(v, score);
    }
  }
};

/*
 * The score, in falling order, up to which the shares add up to what `need(total)` says: first its bin, then its digits.
 */
template <class Need>
__device__ __forceinline__ word wide_search(const WideRow& w, SampleShare kind, Need need, WideShared& s) {
  const i32 lowest = bin_of(w.top, logit_of(w.cut));
  for (i32 b = threadIdx.x; b < SAMPLE_BINS; b += FINISH_THREADS) s.sums[b] = b < lowest ? w.counted(kind, b) : 0;
  __syncthreads();
  w.each_in(lowest, [&](float v, word) { atomicAdd(&s.sums[lowest], w.share(kind, v)); });
  __syncthreads();
  word wanted = 0;
  const Crossing bin = crossing<FINISH_THREADS>(s.sums, s.crossing, [&](word total) { return wanted = need(total); });
  wanted -= bin.before;
  word known = 0, prefix = 0;
#pragma unroll
  for (int d = 0; d < SCORE_DIGITS; d++) {
    const word digits = ((word)1 << digit_bits(d)) - 1;
    for (i32 b = threadIdx.x; b < SAMPLE_BINS; b += FINISH_THREADS) s.sums[b] = 0;
    __syncthreads();
    w.each_in(bin.bin, [&](float v, word score) {
      if ((score & known) == prefix) atomicAdd(&s.sums[digits - (score >> digit_shift(d) & digits)], w.share(kind, v));
    });
    __syncthreads();
    const Crossing digit = crossing<FINISH_THREADS>(s.sums, s.crossing, [&](word) { return wanted; });
    wanted -= digit.before;
    known |= digits << digit_shift(d);
    prefix |= (digits - (word)digit.bin) << digit_shift(d);
  }
  return prefix | ((word)0xffffffffu & ~((word)SCORE_WIDEST - 1));
}

/* Lists the `top_k` highest where their bins hold more than can be sorted; returns how many there are. */
__device__ __forceinline__ i32 list_ranked(const SampleRecord& r, const RowView& row, SampleWork& work, word best, WideShared& s) {
  WideRow w = {row, &work.tally, logit_of(best), r.temperature, 1};
  w.cut = wide_search(w, SHARE_ONE, [&](word total) { return min((word)r.top_k, total); }, s);
  if (threadIdx.x == 0) s.token = 0;
  __syncthreads();
  for (i32 id = threadIdx.x; id < row.width; id += FINISH_THREADS) {
    const word score = score_of(row.at(id), id);
    if (score >= w.cut) work.list[atomicAdd(&s.token, 1)] = score;
  }
  __syncthreads();
  const i32 count = s.token;
  __syncthreads();
  return count;
}

__device__ __forceinline__ i32 draw_from_many(const SampleRecord& r, const RowView& row, const SampleTally& tally, word best, WideShared& s) {
  const float top = logit_of(best);
  /* further down exp(x - top) is 0 in f64 */
  WideRow w = {row, &tally, top, r.temperature, score_from((f64)top - 745.13)};
  if (r.top_k > 0) w.cut = max(w.cut, wide_search(w, SHARE_ONE, [&](word total) { return min((word)r.top_k, total); }, s));
  if (r.top_p < 1) w.cut = max(w.cut, wide_search(w, SHARE_MASS, [&](word total) { return needed(r.top_p, total, false); }, s));
  if (r.min_p > 0) w.cut = max(w.cut, min(score_from((f64)top + log(r.min_p)), best));
  return id_of(wide_search(w, SHARE_WARM, [&](word total) { return needed(r.place, total, true); }, s));
}

}  // namespace psi
