/*
 * What the kernels of psi_sample share: records (src/ir/ops/sample.ts writes them), the work memory of one, logits in their order as whole
 * numbers, sums over a threadgroup of SAMPLE_THREADS, and the choice among a row's candidates. Stages and their order are those of
 * src/serve/engine/sampler.ts.
 */
#pragma once
#include "sample.h"
#include "sample_weight.h"

struct SampleRecord {
  int row, flags, top_k, mask, first_entry, entries;
  ulong temperature, top_p, min_p; /* f64, as all below */
  ulong place;                     /* the uniform number in [0, 1) that decides */
  ulong repeat, frequency, presence;
};
enum { SAMPLE_GREEDY = 1, SAMPLE_LOGPROB = 2 };
struct SampleEntry {
  int token, count;
  ulong bias, loss; /* f64 */
};
struct SamplePiece {
  ulong best;               /* the highest score */
  ulong warm;               /* sum of weights at the temperature */
  float raw_top, raw_sum;   /* of exp(x - raw_top), of the logits as the model gave them */
};
struct SampleWork {
  ulong mass[SAMPLE_BINS]; /* weights at temperature 1 by the distance from the highest logit */
  ulong list[SAMPLE_LIST]; /* scores of the candidates, in any order */
  uint counts[SAMPLE_BINS];
  SamplePiece pieces[SAMPLE_PIECES];
  uint listed, broken;
};

/* Higher for higher logits, then for lower ids; 0 for NaN. */
static inline ulong score_of(float v, int id) {
  if (isnan(v)) return 0;
  const uint bits = as_type<uint>(v + 0.0f); /* both zeros alike */
  const uint key = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  return ulong(key) << 32 | (0xffffffffu - uint(id));
}
static inline int id_of(ulong score) { return score == 0 ? 0 : int(0xffffffffu - uint(score)); }
static inline float logit_of(ulong score) {
  const uint key = uint(score >> 32);
  return as_type<float>((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key);
}
/* The lowest score of a logit that is at least `least`. */
static inline ulong score_from(float2 least) {
  float v = least.x;
  const uint bits = as_type<uint>(v);
  if (least.y > 0.0f && !isinf(v)) v = v == 0.0f ? as_type<float>(1u) : as_type<float>((bits & 0x80000000u) != 0 ? bits - 1 : bits + 1);
  return score_of(v, 0) & ~ulong(0xffffffff);
}
static inline bool finite_top(ulong best) { return best != 0 && !isinf(logit_of(best)); }
/* Whole in that a higher logit never has a higher bin. */
static inline int bin_of(float top, float v) {
  const float distance = (top - v) * 32.0f;
  return distance < float(SAMPLE_BINS - 1) ? int(distance) : SAMPLE_BINS - 1;
}

static inline bool usable(SampleRecord r, constant SampleParams& p) {
  if (r.row < 0 || r.row >= p.rows || r.top_k < 0 || r.mask < -1 || r.mask >= p.mask_count || r.entries < 0 || r.first_entry < 0) return false;
  if (r.first_entry > p.entry_count || r.entries > p.entry_count - r.first_entry) return false;
  if ((r.flags & SAMPLE_GREEDY) != 0) return true;
  return p.draws != 0 && double_above_zero(r.temperature) && double_at_least_zero(r.top_p) && double_at_least_zero(r.min_p) &&
         (double_below_one(r.min_p) || r.min_p == DOUBLE_ONE) && double_below_one(r.place) && double_at_least_zero(r.place);
}
static inline bool greedy(SampleRecord r) { return (r.flags & SAMPLE_GREEDY) != 0; }
/* Whether the k highest can be sorted. */
static inline bool ranked(SampleRecord r) { return r.top_k > 0 && r.top_k <= SAMPLE_LIST; }
static inline bool takes_top_p(SampleRecord r) { return double_below_one(r.top_p); }
static inline bool takes_min_p(SampleRecord r) { return double_above_zero(r.min_p); }
/* Whether anything but the draw chooses; if not, tokens are drawn in order of their ids. */
static inline bool narrows(SampleRecord r) { return r.top_k > 0 || takes_top_p(r) || takes_min_p(r); }

/* A row as a record sees it. */
struct SampleRow {
  device const float* logits;
  device const uint* mask;
  bool masked;
  int width;
};
static inline SampleRow row_of(SampleRecord r, device const float* logits, device const uint* masks, constant SampleParams& p) {
  SampleRow row = {logits + ulong(uint(r.row)) * uint(p.width), masks + ulong(uint(max(r.mask, 0))) * uint((p.width + 31) / 32), r.mask >= 0, p.width};
  return row;
}
static inline float logit_at(SampleRow row, int id) {
  if (row.masked && (row.mask[id / 32] >> uint(id % 32) & 1) == 0) return -INFINITY;
  return row.logits[id];
}

/* ---- over a threadgroup ---- */

struct SamplePlace {
  uint thread_index, lane, simd;
};
enum { SAMPLE_SIMDS = SAMPLE_THREADS / 32, SAMPLE_ROOM = SAMPLE_SIMDS + 2 };

static inline ulong shuffled_up(ulong v, ushort distance) {
  const uint low = simd_shuffle_up(uint(v), distance), high = simd_shuffle_up(uint(v >> 32), distance);
  return ulong(high) << 32 | low;
}
static inline ulong shuffled_xor(ulong v, ushort distance) {
  const uint low = simd_shuffle_xor(uint(v), distance), high = simd_shuffle_xor(uint(v >> 32), distance);
  return ulong(high) << 32 | low;
}
/* The highest of all threads. `room`: SAMPLE_ROOM words. */
static inline ulong group_highest(ulong v, threadgroup ulong* room, SamplePlace at) {
  for (ushort distance = 16; distance > 0; distance /= 2) {
    const ulong other = shuffled_xor(v, distance);
    if (other > v) v = other;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (at.lane == 0) room[at.simd] = v;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (uint i = 0; i < SAMPLE_SIMDS; i++)
    if (room[i] > v) v = room[i];
  return v;
}
/* The sum over the threads up to this one, and over all. */
static inline ulong group_scan(ulong v, threadgroup ulong* room, SamplePlace at, thread ulong& total) {
  for (ushort distance = 1; distance < 32; distance *= 2) {
    const ulong other = shuffled_up(v, distance);
    if (at.lane >= distance) v += other;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (at.lane == 31) room[at.simd] = v;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  ulong before = 0;
  total = 0;
  for (uint i = 0; i < SAMPLE_SIMDS; i++) {
    if (i < at.simd) before += room[i];
    total += room[i];
  }
  return before + v;
}

struct Crossing {
  int at;
  ulong before; /* sum of what stands ahead */
};
enum { SAMPLE_EACH = SAMPLE_BINS / SAMPLE_THREADS };
/* Where sums over all threads' elements, SAMPLE_EACH one after the other each, reach `wanted`; `upto`: group_scan of this thread's sum. */
static inline Crossing crossing(thread const ulong* own, ulong sum, ulong upto, ulong wanted, threadgroup ulong* room, SamplePlace at) {
  if (at.thread_index == 0) room[SAMPLE_SIMDS] = room[SAMPLE_SIMDS + 1] = 0;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  ulong before = upto - sum;
  if (before < wanted && upto >= wanted) {
    int i = 0;
    for (; before + own[i] < wanted; i++) before += own[i];
    room[SAMPLE_SIMDS] = at.thread_index * SAMPLE_EACH + uint(i);
    room[SAMPLE_SIMDS + 1] = before;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  Crossing found = {int(room[SAMPLE_SIMDS]), room[SAMPLE_SIMDS + 1]};
  threadgroup_barrier(mem_flags::mem_threadgroup);
  return found;
}

/* Adds to a 64-bit sum of two words; which thread comes first changes nothing. */
template <typename P>
static inline void add_wide(P words, ulong v) {
  const uint low = uint(v), old = atomic_fetch_add_explicit(words, low, memory_order_relaxed);
  const uint high = uint(v >> 32) + (old > ~low ? 1 : 0);
  if (high != 0) atomic_fetch_add_explicit(words + 1, high, memory_order_relaxed);
}

/* The highest score of a row by its pieces. */
static inline ulong row_best(device const SamplePiece* pieces, int count) {
  ulong best = 0;
  for (int i = 0; i < count; i++)
    if (pieces[i].best > best) best = pieces[i].best;
  return best;
}

struct ListCut {
  int last; /* candidates are in the bins up to this one */
  ulong count;
};
/* The bins that hold every token the record may keep. */
static inline ListCut list_cut(SampleRecord r, device const SampleWork* work, ulong best, threadgroup ulong* room, SamplePlace at) {
  ListCut cut = {SAMPLE_BINS - 1, 0};
  ulong own[SAMPLE_EACH], sum = 0, total;
  const int first = int(at.thread_index) * SAMPLE_EACH;
  if (r.top_k > 0 || takes_top_p(r)) {
    for (int i = 0; i < SAMPLE_EACH; i++) {
      own[i] = r.top_k > 0 ? ulong(work->counts[first + i]) : work->mass[first + i];
      sum += own[i];
    }
    const ulong upto = group_scan(sum, room, at, total);
    cut.last = crossing(own, sum, upto, r.top_k > 0 ? min(ulong(uint(r.top_k)), total) : needed(r.top_p, total, false), room, at).at;
  }
  /* top-p after top-k is a share of all the k, those below the floor too */
  if (takes_min_p(r) && !(r.top_k > 0 && takes_top_p(r))) {
    const float top = logit_of(best);
    cut.last = min(cut.last, bin_of(top, logit_of(score_from(pair_add(float2(top, 0.0f), pair_log(r.min_p))))));
  }
  sum = 0;
  for (int i = 0; i < SAMPLE_EACH; i++)
    if (first + i <= cut.last) sum += work->counts[first + i];
  group_scan(sum, room, at, total);
  cut.count = total;
  return cut;
}

/* The weight of a logit beside the highest one, at the record's temperature where it is wanted. */
static inline ulong weight_beside(float v, float top, bool warm, float2 temperature) {
  const float2 d = pair_of_sum(v, -top);
  if (isinf(v)) return 0;
  return weight_of(warm ? pair_over(d, temperature) : d);
}

/* Highest first; `count` a power of two. */
static inline void sort_scores(threadgroup ulong* scores, uint count, SamplePlace at) {
  for (uint size = 2; size <= count; size *= 2)
    for (uint step = size / 2; step > 0; step /= 2) {
      threadgroup_barrier(mem_flags::mem_threadgroup);
      for (uint i = at.thread_index; i < count / 2; i += SAMPLE_THREADS) {
        const uint low = i / step * 2 * step + i % step, high = low + step;
        const ulong a = scores[low], b = scores[high];
        if ((a < b) != ((low & size) == 0)) continue;
        scores[low] = b;
        scores[high] = a;
      }
    }
  threadgroup_barrier(mem_flags::mem_threadgroup);
}

/* Up to which of the first `count` scores the weights reach a share of `total`, or of their own sum where that is 0. */
static inline int list_share(threadgroup const ulong* scores, int count, bool warm, float2 temperature, ulong share, ulong total, bool above, threadgroup ulong* room,
                      SamplePlace at) {
  ulong own[SAMPLE_EACH], sum = 0, all;
  const float top = logit_of(scores[0]);
  const int first = int(at.thread_index) * SAMPLE_EACH;
  for (int i = 0; i < SAMPLE_EACH; i++) {
    own[i] = first + i < count ? weight_beside(logit_of(scores[first + i]), top, warm, temperature) : 0;
    sum += own[i];
  }
  const ulong upto = group_scan(sum, room, at, all);
  ulong wanted = needed(share, total == 0 ? all : total, above);
  /* weights that reach a limit to the last digit, as equal ones do, have reached it on the host too, whose sums are rounded */
  if (!above) wanted -= min(wanted - 1, all >> 40);
  if (wanted > all) return count - 1;
  return crossing(own, sum, upto, wanted, room, at).at;
}

/* From a list of up to SAMPLE_LIST candidates; `row_mass`: the weights of the whole row. */
static inline int draw_from_list(SampleRecord r, device const ulong* list, int count, ulong row_mass, threadgroup ulong* scores, threadgroup ulong* room, SamplePlace at) {
  const float2 temperature = pair_of_bits(r.temperature);
  uint size = 1;
  while (size < uint(count)) size *= 2;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (uint i = at.thread_index; i < size; i += SAMPLE_THREADS) scores[i] = i < uint(count) ? list[i] : 0;
  sort_scores(scores, size, at);
  if (r.top_k > 0) count = min(count, r.top_k);
  if (takes_top_p(r)) count = list_share(scores, count, false, temperature, r.top_p, r.top_k > 0 ? 0 : row_mass, false, room, at) + 1;
  if (takes_min_p(r)) {
    const ulong floor = score_from(pair_add(float2(logit_of(scores[0]), 0.0f), pair_log(r.min_p)));
    ulong in = 0, kept;
    for (int i = int(at.thread_index); i < count; i += SAMPLE_THREADS) in += i == 0 || scores[i] >= floor ? 1 : 0;
    group_scan(in, room, at, kept);
    count = int(kept);
  }
  return id_of(scores[list_share(scores, count, true, temperature, r.place, 0, true, room, at)]);
}

/* In order of ids, nothing left out: the pieces' sums are known. */
static inline int draw_in_order(SampleRecord r, SampleRow row, device const SamplePiece* pieces, ulong best, threadgroup ulong* room, SamplePlace at) {
  const float top = logit_of(best);
  const float2 temperature = pair_of_bits(r.temperature);
  const int count = (row.width + SAMPLE_PIECE - 1) / SAMPLE_PIECE;
  ulong own[SAMPLE_EACH], sum = 0, total;
  for (int i = 0; i < SAMPLE_EACH; i++) {
    const int piece = int(at.thread_index) * SAMPLE_EACH + i;
    own[i] = piece < count ? pieces[piece].warm : 0;
    sum += own[i];
  }
  ulong upto = group_scan(sum, room, at, total);
  const ulong wanted = needed(r.place, total, true);
  const Crossing piece = crossing(own, sum, upto, wanted, room, at);
  ulong before = piece.before;
  for (int from = piece.at * SAMPLE_PIECE;; from += SAMPLE_BINS) {
    sum = 0;
    for (int i = 0; i < SAMPLE_EACH; i++) {
      const int id = from + int(at.thread_index) * SAMPLE_EACH + i;
      own[i] = id < row.width ? weight_beside(logit_at(row, id), top, true, temperature) : 0;
      sum += own[i];
    }
    upto = group_scan(sum, room, at, total);
    if (before + total >= wanted || from >= (piece.at + 1) * SAMPLE_PIECE) return from + crossing(own, sum, upto, wanted - before, room, at).at;
    before += total;
  }
}

/* ---- more candidates than can be sorted: scores are searched from above, digit by digit ---- */

enum SampleShare { SHARE_ONE, SHARE_MASS, SHARE_WARM };
enum { SCORE_DIGITS = 5 };
/* 32 bits of the logit, then 19 of the id; between them are ones. */
static inline uint digit_bits(int digit) { return digit < 2 ? 11 : digit < 4 ? 10 : 9; }
static inline uint digit_shift(int digit) { return digit == 0 ? 53 : digit == 1 ? 42 : digit == 2 ? 32 : digit == 3 ? 9 : 0; }

struct WideCut {
  float top;
  float2 temperature;
  ulong least; /* tokens of at least this score are in */
};

/*
 * The score, in falling order, up to which the shares reach what is wanted: `count` of them, or a share (f64) of their sum. `sums`: SAMPLE_BINS.
 */
static inline ulong wide_search(SampleRow row, WideCut w, SampleShare kind, ulong count, ulong share, bool above, threadgroup ulong* sums, threadgroup ulong* room, SamplePlace at) {
  ulong known = 0, prefix = 0, wanted = 0;
  for (int digit = 0; digit < SCORE_DIGITS; digit++) {
    const uint shift = digit_shift(digit);
    const ulong digits = (ulong(1) << digit_bits(digit)) - 1;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint i = at.thread_index; i < SAMPLE_BINS; i += SAMPLE_THREADS) sums[i] = 0;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (int id = int(at.thread_index); id < row.width; id += SAMPLE_THREADS) {
      const float v = logit_at(row, id);
      const ulong score = score_of(v, id);
      if (score < w.least || score == 0 || (score & known) != prefix) continue;
      const ulong own = kind == SHARE_ONE ? 1 : weight_beside(v, w.top, kind == SHARE_WARM, w.temperature);
      if (own != 0) add_wide((threadgroup atomic_uint*)(sums + (digits - (score >> shift & digits))), own);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    ulong own[SAMPLE_EACH], sum = 0, total;
    for (int i = 0; i < SAMPLE_EACH; i++) {
      own[i] = sums[int(at.thread_index) * SAMPLE_EACH + i];
      sum += own[i];
    }
    const ulong upto = group_scan(sum, room, at, total);
    if (digit == 0) wanted = kind == SHARE_ONE ? min(count, total) : needed(share, total, above);
    const Crossing found = crossing(own, sum, upto, wanted, room, at);
    wanted -= found.before;
    known |= digits << shift;
    prefix |= (digits - ulong(uint(found.at))) << shift;
  }
  return prefix | (ulong(0xffffffff) & ~ulong(SAMPLE_WIDEST - 1));
}

static inline int draw_from_many(SampleRecord r, SampleRow row, ulong best, threadgroup ulong* sums, threadgroup ulong* room, SamplePlace at) {
  const float top = logit_of(best);
  /* further down exp(x - top) is 0 in f64 */
  WideCut w = {top, pair_of_bits(r.temperature), score_from(pair_add(float2(top, 0.0f), float2(-745.13f, 0.0f)))};
  if (r.top_k > 0) w.least = max(w.least, wide_search(row, w, SHARE_ONE, ulong(uint(r.top_k)), 0, false, sums, room, at));
  if (takes_top_p(r)) w.least = max(w.least, wide_search(row, w, SHARE_MASS, 0, r.top_p, false, sums, room, at));
  if (takes_min_p(r)) w.least = max(w.least, min(score_from(pair_add(float2(top, 0.0f), pair_log(r.min_p))), best));
  return id_of(wide_search(row, w, SHARE_WARM, 0, r.place, true, sums, room, at));
}
