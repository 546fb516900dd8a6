/*
 * The next token of each row of logits, as src/serve/engine/sampler.ts chooses it: biases and penalties, mask, top-k, top-p, min-p, draw.
 * Threadgroups take pieces of 8192 logits: they apply the entries in place and find the highest logit, count logits by their distance from
 * it, and list those that may be kept; then one threadgroup a record sorts the list, narrows it down, draws, and puts the changed logits
 * back. Greedy rows need the first and the last kernel only. The host has f64, kernels pairs of floats (some 2^-45) and sums in units of
 * 2^-44 of the highest weight: whole numbers, so that a row's token depends neither on the other rows nor on the order of threads.
 */
#include <metal_stdlib>
#include "reduce.h"
#include "sample_draw.h"
using namespace metal;

/* In each step as the host: bias, repeat penalties, loss; rounded to f32 after each. */
static inline float changed(float logit, SampleEntry e, SampleRecord r) {
  if (!double_is_zero(e.bias)) logit = pair_plus(float2(logit, 0.0f), pair_of_bits(e.bias)).x;
  if (e.count > 0) {
    const float2 own = float2(logit, 0.0f), repeat = pair_of_bits(r.repeat), often = pair_times(pair_of_bits(r.frequency), float2(float(e.count), 0.0f));
    const float2 scaled = logit >= 0.0f ? pair_over(own, repeat) : pair_times(own, repeat), present = pair_of_bits(r.presence);
    logit = pair_plus(pair_plus(scaled, float2(-often.x, -often.y)), float2(-present.x, -present.y)).x;
  }
  if (!double_is_zero(e.loss)) {
    const float2 loss = pair_of_bits(e.loss);
    logit = pair_plus(float2(logit, 0.0f), float2(-loss.x, -loss.y)).x;
  }
  return logit;
}

static inline device SampleWork* work_of(device uchar* work, uint record) { return (device SampleWork*)(work + ulong(record) * SAMPLE_WORK_BYTES); }

kernel void sample_scan(device float* logits [[buffer(0)]], device const SampleRecord* records [[buffer(1)]], device const SampleEntry* entries [[buffer(2)]],
                        device const uint* masks [[buffer(3)]], device uchar* works [[buffer(4)]], device float* saved [[buffer(5)]],
                        constant SampleParams& p [[buffer(6)]], uint2 group [[threadgroup_position_in_grid]], uint2 groups [[threadgroups_per_grid]],
                        uint thread_index [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],
                        uint simd [[simdgroup_index_in_threadgroup]]) {
  threadgroup float partial[32];
  threadgroup ulong room[SAMPLE_ROOM];
  threadgroup uint broken[SAMPLE_THREADS];
  const SamplePlace at = {thread_index, lane, simd};
  const SampleRecord r = records[group.y];
  if (!usable(r, p)) return;
  device SampleWork* work = work_of(works, group.y);
  device float* row = logits + ulong(uint(r.row)) * uint(p.width);
  const int begin = int(group.x) * SAMPLE_PIECE, end = min(begin + SAMPLE_PIECE, p.width);
  if ((r.flags & SAMPLE_LOGPROB) != 0) {
    float top = -INFINITY, sum = 0.0f;
    for (int i = begin + int(thread_index); i < end; i += SAMPLE_THREADS) top = row[i] > top ? row[i] : top;
    top = group_max(top, partial, lane, simd, SAMPLE_SIMDS);
    for (int i = begin + int(thread_index); i < end; i += SAMPLE_THREADS)
      if (row[i] > -INFINITY) sum += precise::exp(row[i] - top);
    sum = group_sum(sum, partial, lane, simd, SAMPLE_SIMDS);
    if (thread_index == 0) {
      work->pieces[group.x].raw_top = top;
      work->pieces[group.x].raw_sum = sum;
    }
  }
  broken[thread_index] = 0;
  threadgroup_barrier(mem_flags::mem_device);
  for (int i = int(thread_index); i < r.entries; i += SAMPLE_THREADS) {
    const SampleEntry e = entries[r.first_entry + i];
    if (e.token < 0 || e.token >= p.width) broken[thread_index] = 1;
    if (e.token < begin || e.token >= end) continue;
    saved[r.first_entry + i] = row[e.token];
    row[e.token] = changed(row[e.token], e, r);
  }
  if (!greedy(r))
    for (uint i = group.x * SAMPLE_THREADS + thread_index; i < SAMPLE_BINS; i += groups.x * SAMPLE_THREADS) {
      work->mass[i] = 0;
      work->counts[i] = 0;
    }
  threadgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup);
  if (group.x == 0 && thread_index == 0) {
    uint any = 0;
    for (uint i = 0; i < SAMPLE_THREADS; i++) any |= broken[i];
    work->listed = 0;
    work->broken = any;
  }
  const SampleRow view = row_of(r, logits, masks, p);
  ulong best = 0;
  for (int i = begin + int(thread_index); i < end; i += SAMPLE_THREADS) best = max(best, score_of(logit_at(view, i), i));
  best = group_highest(best, room, at);
  if (thread_index == 0) work->pieces[group.x].best = best;
}

kernel void sample_count(device const float* logits [[buffer(0)]], device const SampleRecord* records [[buffer(1)]], device const uint* masks [[buffer(2)]],
                         device uchar* works [[buffer(3)]], constant SampleParams& p [[buffer(4)]], uint2 group [[threadgroup_position_in_grid]],
                         uint2 groups [[threadgroups_per_grid]], uint thread_index [[thread_index_in_threadgroup]],
                         uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]]) {
  threadgroup ulong mass[SAMPLE_BINS];
  threadgroup atomic_uint counts[SAMPLE_BINS];
  threadgroup ulong room[SAMPLE_ROOM];
  const SamplePlace at = {thread_index, lane, simd};
  const SampleRecord r = records[group.y];
  if (!usable(r, p) || greedy(r)) return;
  device SampleWork* work = work_of(works, group.y);
  const ulong best = row_best(work->pieces, int(groups.x));
  if (!finite_top(best)) return;
  const float top = logit_of(best);
  const float2 temperature = pair_of_bits(r.temperature);
  const SampleRow row = row_of(r, logits, masks, p);
  const int begin = int(group.x) * SAMPLE_PIECE, end = min(begin + SAMPLE_PIECE, p.width);
  if (!narrows(r)) {
    ulong sum = 0, total;
    for (int i = begin + int(thread_index); i < end; i += SAMPLE_THREADS) sum += weight_beside(logit_at(row, i), top, true, temperature);
    group_scan(sum, room, at, total);
    if (thread_index == 0) work->pieces[group.x].warm = total;
    return;
  }
  for (uint i = thread_index; i < SAMPLE_BINS; i += SAMPLE_THREADS) {
    mass[i] = 0;
    atomic_store_explicit(&counts[i], 0, memory_order_relaxed);
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (int i = begin + int(thread_index); i < end; i += SAMPLE_THREADS) {
    const float v = logit_at(row, i);
    if (isnan(v)) continue;
    const int bin = bin_of(top, v);
    atomic_fetch_add_explicit(&counts[bin], 1, memory_order_relaxed);
    const ulong own = r.top_k > 0 ? 0 : weight_beside(v, top, false, temperature);
    if (own != 0) add_wide((threadgroup atomic_uint*)(mass + bin), own);
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (uint i = thread_index; i < SAMPLE_BINS; i += SAMPLE_THREADS) {
    const uint count = atomic_load_explicit(&counts[i], memory_order_relaxed);
    if (count != 0) atomic_fetch_add_explicit((device atomic_uint*)&work->counts[i], count, memory_order_relaxed);
    if (mass[i] != 0) add_wide((device atomic_uint*)&work->mass[i], mass[i]);
  }
}

kernel void sample_list(device const float* logits [[buffer(0)]], device const SampleRecord* records [[buffer(1)]], device const uint* masks [[buffer(2)]],
                        device uchar* works [[buffer(3)]], constant SampleParams& p [[buffer(4)]], uint2 group [[threadgroup_position_in_grid]],
                        uint2 groups [[threadgroups_per_grid]], uint thread_index [[thread_index_in_threadgroup]],
                        uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]]) {
  threadgroup ulong room[SAMPLE_ROOM];
  const SamplePlace at = {thread_index, lane, simd};
  const SampleRecord r = records[group.y];
  if (!usable(r, p) || greedy(r) || !narrows(r)) return;
  device SampleWork* work = work_of(works, group.y);
  const ulong best = row_best(work->pieces, int(groups.x));
  if (!finite_top(best)) return;
  const ListCut cut = list_cut(r, work, best, room, at);
  if (cut.count > SAMPLE_LIST) return;
  const float top = logit_of(best);
  const SampleRow row = row_of(r, logits, masks, p);
  for (int i = int(group.x) * SAMPLE_PIECE + int(thread_index); i < min(int(group.x + 1) * SAMPLE_PIECE, p.width); i += SAMPLE_THREADS) {
    const float v = logit_at(row, i);
    if (!isnan(v) && bin_of(top, v) <= cut.last)
      work->list[atomic_fetch_add_explicit((device atomic_uint*)&work->listed, 1, memory_order_relaxed)] = score_of(v, i);
  }
}

/* The token of a record that draws. */
static inline int drawn_token(SampleRecord r, SampleRow row, device SampleWork* work, ulong best, threadgroup ulong* words, threadgroup ulong* room, SamplePlace at) {
  if (!narrows(r)) return draw_in_order(r, row, work->pieces, best, room, at);
  const ListCut cut = list_cut(r, work, best, room, at);
  if (cut.count > SAMPLE_LIST && !ranked(r)) return draw_from_many(r, row, best, words, room, at);
  if (cut.count > SAMPLE_LIST) {
    /* bins hold more than the k highest */
    WideCut w = {logit_of(best), float2(1.0f, 0.0f), 1};
    w.least = wide_search(row, w, SHARE_ONE, ulong(uint(r.top_k)), 0, false, words, room, at);
    for (int id = int(at.thread_index); id < row.width; id += SAMPLE_THREADS) {
      const ulong score = score_of(logit_at(row, id), id);
      if (score >= w.least) work->list[atomic_fetch_add_explicit((device atomic_uint*)&work->listed, 1, memory_order_relaxed)] = score;
    }
    threadgroup_barrier(mem_flags::mem_device);
    return draw_from_list(r, work->list, min(r.top_k, int(atomic_load_explicit((device atomic_uint*)&work->listed, memory_order_relaxed))), 0, words, room, at);
  }
  ulong mass = 0, total;
  for (uint i = at.thread_index; i < SAMPLE_BINS; i += SAMPLE_THREADS) mass += work->mass[i];
  group_scan(mass, room, at, total);
  return draw_from_list(r, work->list, int(cut.count), total, words, room, at);
}

kernel void sample_finish(device int* ids [[buffer(0)]], device float* logprobs [[buffer(1)]], device float* logits [[buffer(2)]],
                          device const SampleRecord* records [[buffer(3)]], device const SampleEntry* entries [[buffer(4)]],
                          device const uint* masks [[buffer(5)]], device uchar* works [[buffer(6)]], device const float* saved [[buffer(7)]],
                          constant SampleParams& p [[buffer(8)]], uint record [[threadgroup_position_in_grid]],
                          uint thread_index [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],
                          uint simd [[simdgroup_index_in_threadgroup]]) {
  threadgroup ulong words[SAMPLE_BINS]; /* a list or sums */
  threadgroup ulong room[SAMPLE_ROOM];
  const SamplePlace at = {thread_index, lane, simd};
  const SampleRecord r = records[record];
  if (!usable(r, p)) {
    if (thread_index == 0) {
      ids[record] = -1;
      logprobs[record] = NAN;
    }
    return;
  }
  device SampleWork* work = work_of(works, record);
  const int pieces = (p.width + SAMPLE_PIECE - 1) / SAMPLE_PIECE;
  const ulong best = row_best(work->pieces, pieces);
  int token = id_of(best);
  if (!greedy(r) && finite_top(best)) token = drawn_token(r, row_of(r, logits, masks, p), work, best, words, room, at);
  threadgroup_barrier(mem_flags::mem_device);
  device float* row = logits + ulong(uint(r.row)) * uint(p.width);
  for (int i = int(thread_index); i < r.entries; i += SAMPLE_THREADS) {
    const int id = entries[r.first_entry + i].token;
    if (id >= 0 && id < p.width) row[id] = saved[r.first_entry + i];
  }
  threadgroup_barrier(mem_flags::mem_device);
  if (thread_index != 0) return;
  if (work->broken != 0) token = -1;
  float logprob = NAN;
  if (token >= 0 && (r.flags & SAMPLE_LOGPROB) != 0) {
    float top = -INFINITY, sum = 0.0f;
    for (int i = 0; i < pieces; i++) top = fmax(top, work->pieces[i].raw_top);
    for (int i = 0; i < pieces; i++)
      if (work->pieces[i].raw_sum > 0.0f) sum = fma(work->pieces[i].raw_sum, precise::exp(work->pieces[i].raw_top - top), sum);
    logprob = (row[token] - top) - precise::log(sum);
  }
  ids[record] = token;
  logprobs[record] = logprob;
}
