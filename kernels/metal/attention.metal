/*
 * Causal attention over the paged cache: score = scale * <q, k> (soft-capped) over positions p with 0 <= position - p < window; y f32
 * [tokens, heads*head_dim]; a sink adds to the denominator. A token without a sequence gives zeros.
 *
 * Positions are cut into tiles of 64 at absolute positions. A tile gives a row (a head of a token) its highest score, the sum of
 * exp(score - highest) and the values weighted so: scores and weighted values by simdgroup_multiply_accumulate from zero, elements and
 * positions ascending in eights; the sum is a lane's two positions, then simd_sum. Tiles are folded in order (attention_fold.h). So a
 * row's bits depend on its own position alone, not on the tokens beside it, nor on which of the forms below ran.
 *
 * attention: a threadgroup has a kv head, its query heads, and one token (8 rows) or several (32 rows); keys and values of a tile
 * pass through threadgroup memory once for all rows, 32 elements of a head at a time. Tokens of several sequences are gone through
 * sequence by sequence. CHUNKS: width of a head in 32s, at most. SPLIT: threadgroups share a context, tiles split, split + splits, ...,
 * and leave the tiles' results in `parts` [token][head][tile][head_dim + 2] (flash-decoding); attention_combine folds them.
 */
#include <metal_stdlib>
#include "attention.h"
#include "attention_fold.h"
using namespace metal;

constant int CACHE_TYPE [[function_constant(0)]];
constant bool HAS_SINKS [[function_constant(1)]];
constant bool SPLIT [[function_constant(2)]];

/* Where the 64 positions of a tile lie. */
struct TilePlaces {
  threadgroup ulong* pages;
  threadgroup int* slots; /* -1: nowhere */
};

/* 32 elements from `d` on of a tile's keys or values to rows of `to`; zeros where nothing is. */
static inline void stage_cached(threadgroup float4* to, device const uchar* cache, TilePlaces at, constant CacheParams& c, int kv_head, int d, uint thread_index) {
  for (int i = int(thread_index); i < ATTENTION_TILE * ATTENTION_DEPTH / 4; i += ATTENTION_THREADS) {
    const int s = i / (ATTENTION_DEPTH / 4), part = i % (ATTENTION_DEPTH / 4), element = d + 4 * part, slot = at.slots[s];
    float4 v = float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (slot >= 0 && element < c.head_dim)
      v = cached_four(CACHE_TYPE, cache + at.pages[s], uint(kv_head * c.page_size + slot) * uint(c.head_dim) + uint(element), c.scales_at);
    to[s * (ATTENTION_STRIDE / 4) + part] = v;
  }
}

/* Where a row's query lies: -1 in `token` for a row that stands for nothing. */
struct RowPlace {
  int token, head;
};
static inline RowPlace row_place(int row, int first_token, int first_head, int heads_end, constant AttentionParams& p) {
  RowPlace at = {first_token + row / p.rows_heads, first_head + row % p.rows_heads};
  if (row >= p.rows_heads * p.rows_tokens || at.token >= p.cache.tokens || at.head >= heads_end) at.token = -1;
  return at;
}

static inline float weight_of(float score, float top) { return isnan(score) ? score : score == -INFINITY ? 0.0f : precise::exp(score - top); }

template <int BLOCKS, int CHUNKS>
kernel void attention(device float* y [[buffer(0)]], device const float* q [[buffer(1)]], device const uchar* k_cache [[buffer(2)]],
                      device const uchar* v_cache [[buffer(3)]], device const int* page_table [[buffer(4)]],
                      device const int* token_sequence [[buffer(5)]], device const int* token_position [[buffer(6)]],
                      device const float* sinks [[buffer(7)]], constant AttentionParams& p [[buffer(8)]], device float* parts [[buffer(9)]],
                      uint3 at [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]],
                      uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]]) {
  threadgroup float4 staged[ATTENTION_TILE * ATTENTION_STRIDE / 4];
  threadgroup float rows[8 * BLOCKS * ATTENTION_STRIDE]; /* queries, then results of a tile */
  threadgroup float scores[8 * BLOCKS * ATTENTION_SCORES];
  threadgroup ulong pages[ATTENTION_TILE];
  threadgroup int slots[ATTENTION_TILE];
  threadgroup int positions[8 * BLOCKS]; /* of the rows that take part */
  threadgroup float tops[8 * BLOCKS];
  threadgroup float sums[8 * BLOCKS];
  threadgroup float kept[8 * BLOCKS];
  threadgroup float added[8 * BLOCKS];
  constant CacheParams& c = p.cache;
  const int width = c.head_dim, chunks = (width + ATTENTION_DEPTH - 1) / ATTENTION_DEPTH, group = p.heads / c.kv_heads;
  const int per_head = (group + p.rows_heads - 1) / p.rows_heads, kv_head = int(at.x) / per_head;
  const int first_head = kv_head * group + int(at.x) % per_head * p.rows_heads, heads_end = (kv_head + 1) * group;
  const int first_token = (int(at.y) + p.first_group) * p.rows_tokens, tokens = min(p.rows_tokens, c.tokens - first_token);
  /* a block of 8 rows has 4 / BLOCKS simdgroups, which share its columns */
  const int block = int(simd) * BLOCKS / ATTENTION_SIMDS, share = int(simd) % (ATTENTION_SIMDS / BLOCKS), columns = 8 * BLOCKS;
  threadgroup float* tile_values = (threadgroup float*)staged;
  float out[CHUNKS][2 * BLOCKS];
  for (int k = 0; k < CHUNKS; k++)
    for (int i = 0; i < 2 * BLOCKS; i++) out[k][i] = 0.0f;
  if (thread_index < 8 * BLOCKS) {
    tops[thread_index] = -INFINITY;
    sums[thread_index] = 0.0f;
  }

  for (int begin = 0, end = 0; begin < tokens; begin = end) {
    const int sequence = token_sequence[first_token + begin];
    int highest = -1, lowest = 2147483647;
    for (end = begin; end < tokens && token_sequence[first_token + end] == sequence; end++) {
      const int position = token_position[first_token + end];
      highest = max(highest, position);
      lowest = min(lowest, p.window > 0 ? max(0, position - p.window + 1) : 0);
    }
    if (sequence < 0 || highest < 0) continue;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (thread_index < 8 * BLOCKS) {
      const int own = row_place(int(thread_index), first_token, first_head, heads_end, p).token - first_token;
      positions[thread_index] = own >= begin && own < end ? token_position[first_token + own] : -1;
    }
    const int last = min(highest / ATTENTION_TILE, p.tiles - 1);
    for (int tile = lowest / ATTENTION_TILE + int(at.z); tile <= last; tile += p.splits) {
      threadgroup_barrier(mem_flags::mem_threadgroup);
      if (thread_index < ATTENTION_TILE) {
        const int s = tile * ATTENTION_TILE + int(thread_index);
        CachePlace place = {0, -1};
        if (s >= lowest && s <= highest) place = cache_place(c, page_table, sequence, s);
        pages[thread_index] = place.page;
        slots[thread_index] = place.slot;
      }
      TilePlaces places = {pages, slots};
      simdgroup_float8x8 dots[2 * BLOCKS];
      for (int j = 0; j < 2 * BLOCKS; j++) dots[j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
      for (int k = 0; k < chunks; k++) {
        threadgroup_barrier(mem_flags::mem_threadgroup);
        stage_cached(staged, k_cache, places, c, kv_head, k * ATTENTION_DEPTH, thread_index);
        for (int i = int(thread_index); i < 8 * BLOCKS * ATTENTION_DEPTH; i += ATTENTION_THREADS) {
          const int row = i / ATTENTION_DEPTH, d = k * ATTENTION_DEPTH + i % ATTENTION_DEPTH;
          const RowPlace place = row_place(row, first_token, first_head, heads_end, p);
          const bool there = place.token >= 0 && d < width;
          rows[row * ATTENTION_STRIDE + i % ATTENTION_DEPTH] = there ? q[ulong(place.token) * uint(p.q_stride) + uint(p.q_offset + place.head * width + d)] : 0.0f;
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (int step = 0; step < ATTENTION_DEPTH; step += 8) {
          simdgroup_float8x8 a, b;
          simdgroup_load(a, rows + block * 8 * ATTENTION_STRIDE + step, ATTENTION_STRIDE);
          for (int j = 0; j < 2 * BLOCKS; j++) {
            simdgroup_load(b, tile_values + (share * 2 * BLOCKS + j) * 8 * ATTENTION_STRIDE + step, ATTENTION_STRIDE, ulong2(0, 0), true);
            simdgroup_multiply_accumulate(dots[j], a, b, dots[j]);
          }
        }
      }
      for (int j = 0; j < 2 * BLOCKS; j++)
        simdgroup_store(dots[j], scores + block * 8 * ATTENTION_SCORES + (share * 2 * BLOCKS + j) * 8, ATTENTION_SCORES);
      threadgroup_barrier(mem_flags::mem_threadgroup);
      for (int i = 0; i < 2 * BLOCKS; i++) {
        const int row = int(simd) * 2 * BLOCKS + i, position = positions[row];
        const int from = p.window > 0 ? position - p.window + 1 : 0;
        threadgroup float* own = scores + row * ATTENTION_SCORES;
        float score[2];
        for (int h = 0; h < 2; h++) {
          const int place = int(lane) + 32 * h, s = tile * ATTENTION_TILE + place;
          score[h] = -INFINITY;
          if (slots[place] < 0 || s > position || s < from) continue;
          score[h] = own[place] * p.scale;
          if (p.softcap > 0.0f) score[h] = p.softcap * precise::tanh(score[h] / p.softcap);
        }
        const float top = simd_max(fmax(isnan(score[0]) ? -INFINITY : score[0], isnan(score[1]) ? -INFINITY : score[1]));
        const float first = weight_of(score[0], top), second = weight_of(score[1], top), sum = simd_sum(first + second);
        own[lane] = first;
        own[lane + 32] = second;
        if (lane != 0) continue;
        if (SPLIT) {
          const RowPlace place = row_place(row, first_token, first_head, heads_end, p);
          if (place.token < 0) continue;
          device float* to = parts + ((ulong(place.token) * uint(p.heads) + uint(place.head)) * uint(p.tiles) + uint(tile)) * uint(width + 2) + uint(width);
          to[0] = top;
          to[1] = sum;
          continue;
        }
        const float before = tops[row], merged = fmax(before, top);
        kept[row] = before == merged ? 1.0f : fold_factor(before, merged);
        added[row] = fold_factor(top, merged);
        tops[row] = merged;
        sums[row] = fold_sum(sums[row], sum, kept[row], added[row]);
      }
      for (int k = 0; k < CHUNKS; k++) {
        if (k >= chunks) break;
        threadgroup_barrier(mem_flags::mem_threadgroup);
        stage_cached(staged, v_cache, places, c, kv_head, k * ATTENTION_DEPTH, thread_index);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        simdgroup_float8x8 results[BLOCKS];
        for (int j = 0; j < BLOCKS; j++) results[j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
        for (int step = 0; step < ATTENTION_TILE; step += 8) {
          simdgroup_float8x8 a, b;
          simdgroup_load(a, scores + block * 8 * ATTENTION_SCORES + step, ATTENTION_SCORES);
          for (int j = 0; j < BLOCKS; j++) {
            simdgroup_load(b, tile_values + step * ATTENTION_STRIDE + share * columns + 8 * j, ATTENTION_STRIDE);
            simdgroup_multiply_accumulate(results[j], a, b, results[j]);
          }
        }
        for (int j = 0; j < BLOCKS; j++) simdgroup_store(results[j], rows + block * 8 * ATTENTION_STRIDE + share * columns + 8 * j, ATTENTION_STRIDE);
        simdgroup_barrier(mem_flags::mem_threadgroup);
        for (int i = 0; i < 2 * BLOCKS; i++) {
          const int e = i * 32 + int(lane), row = block * 8 + e / columns, column = share * columns + e % columns, d = k * ATTENTION_DEPTH + column;
          const float v = rows[row * ATTENTION_STRIDE + column];
          if (!SPLIT) {
            out[k][i] = fold(out[k][i], v, kept[row], added[row]);
            continue;
          }
          const RowPlace place = row_place(row, first_token, first_head, heads_end, p);
          if (place.token >= 0 && d < width)
            parts[((ulong(place.token) * uint(p.heads) + uint(place.head)) * uint(p.tiles) + uint(tile)) * uint(width + 2) + uint(d)] = v;
        }
      }
    }
  }
  if (SPLIT) return;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (int k = 0; k < CHUNKS; k++)
    for (int i = 0; i < 2 * BLOCKS; i++) {
      const int e = i * 32 + int(lane), row = block * 8 + e / columns, d = k * ATTENTION_DEPTH + share * columns + e % columns;
      const RowPlace place = row_place(row, first_token, first_head, heads_end, p);
      if (place.token < 0 || d >= width) continue;
      const bool none = token_sequence[place.token] < 0 || token_position[place.token] < 0;
      y[(ulong(place.token) * uint(p.heads) + uint(place.head)) * uint(width) + uint(d)] =
          none ? 0.0f : folded(out[k][i], tops[row], sums[row], HAS_SINKS, HAS_SINKS ? sinks[place.head] : 0.0f);
    }
}

#define ATTENTION(blocks, chunks)                                                                                                                \
  template [[host_name(ATTENTION_NAME(attention_##blocks##_##chunks))]] kernel void attention<blocks, chunks>(                                    \
      device float*, device const float*, device const uchar*, device const uchar*, device const int*, device const int*, device const int*,     \
      device const float*, constant AttentionParams&, device float*, uint3, uint, uint, uint);
#define ATTENTION_NAME(name) #name
ATTENTION(1, 2)
ATTENTION(1, 4)
ATTENTION(1, 8)
ATTENTION(1, 16)
ATTENTION(4, 2)
ATTENTION(4, 4)
ATTENTION(4, 8)
ATTENTION(4, 16)

/* A threadgroup has a head of a token; its tiles' factors are found 128 at a time, a thread has elements thread, thread + 128, ... */
kernel void attention_combine(device float* y [[buffer(0)]], device const float* parts [[buffer(1)]], device const int* token_sequence [[buffer(2)]],
                              device const int* token_position [[buffer(3)]], device const float* sinks [[buffer(4)]],
                              constant AttentionParams& p [[buffer(5)]], uint2 at [[threadgroup_position_in_grid]],
                              uint thread_index [[thread_index_in_threadgroup]]) {
  threadgroup float tile_tops[ATTENTION_THREADS];
  threadgroup float tile_sums[ATTENTION_THREADS];
  threadgroup float kept[ATTENTION_THREADS];
  threadgroup float added[ATTENTION_THREADS];
  const uint width = uint(p.cache.head_dim), stride = width + 2;
  const int sequence = token_sequence[at.y], position = sequence < 0 ? -1 : token_position[at.y];
  const int lowest = p.window > 0 ? max(0, position - p.window + 1) : 0;
  const int first = lowest / ATTENTION_TILE, last = position < 0 ? -1 : min(position / ATTENTION_TILE, p.tiles - 1);
  const ulong row = ulong(at.y) * uint(p.heads) + at.x;
  device const float* own = parts + row * uint(p.tiles) * stride;
  float m = -INFINITY, l = 0.0f, out[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  for (int from = first; from <= last; from += ATTENTION_THREADS) {
    const int count = min(int(ATTENTION_THREADS), last - from + 1);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (int(thread_index) < count) {
      tile_tops[thread_index] = own[ulong(from + int(thread_index)) * stride + width];
      tile_sums[thread_index] = own[ulong(from + int(thread_index)) * stride + width + 1];
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (int(thread_index) < count) {
      float before = m;
      for (uint i = 0; i < thread_index; i++) before = fmax(before, tile_tops[i]);
      const float merged = fmax(before, tile_tops[thread_index]);
      kept[thread_index] = before == merged ? 1.0f : fold_factor(before, merged);
      added[thread_index] = fold_factor(tile_tops[thread_index], merged);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (int i = 0; i < count; i++) {
      m = fmax(m, tile_tops[i]);
      l = fold_sum(l, tile_sums[i], kept[i], added[i]);
      for (uint e = 0; e < 4; e++) {
        const uint d = thread_index + e * ATTENTION_THREADS;
        if (d < width) out[e] = fold(out[e], own[ulong(from + i) * stride + d], kept[i], added[i]);
      }
    }
  }
  for (uint e = 0; e < 4; e++) {
    const uint d = thread_index + e * ATTENTION_THREADS;
    if (d < width) y[row * width + d] = position < 0 ? 0.0f : folded(out[e], m, l, HAS_SINKS, HAS_SINKS ? sinks[at.x] : 0.0f);
  }
}
