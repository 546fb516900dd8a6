/*
 * Causal attention over the paged cache: score = scale * <q, k> (soft-capped) over positions p with 0 <= position - p < window; y f32
 * [tokens, heads*head_dim]; a sink adds to the denominator. A token without a sequence gives zeros.
 *
 * A threadgroup has a head of a token. Positions are cut into chunks of 32 at absolute positions; chunk c belongs to simdgroup c % 4.
 * In a chunk a lane first scores a position (elements ascending), then, after the chunk's maximum and sum over the lanes, adds up
 * the values of elements lane, lane + 32, ... (positions ascending). Chunks of a simdgroup are merged in ascending order by the
 * flash-attention recurrence (arXiv:2205.14135), then the simdgroups in theirs: a token's bits depend on nothing but its
 * own position, not on the batch or the other tokens.
 */
#include <metal_stdlib>
#include "attention.h"
using namespace metal;

constant int CACHE_TYPE [[function_constant(0)]];
constant bool HAS_SINKS [[function_constant(1)]];

kernel void attention(device float* y [[buffer(0)]], device const float* q [[buffer(1)]], device const uchar* k_cache [[buffer(2)]],
                      device const uchar* v_cache [[buffer(3)]], device const int* page_table [[buffer(4)]],
                      device const int* token_sequence [[buffer(5)]], device const int* token_position [[buffer(6)]],
                      device const float* sinks [[buffer(7)]], constant AttentionParams& p [[buffer(8)]],
                      uint2 at [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]],
                      uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]]) {
  threadgroup float query[ATTENTION_MOST_WIDTH];
  threadgroup float weights[ATTENTION_SIMDS][ATTENTION_CHUNK];
  threadgroup uint places[ATTENTION_SIMDS][ATTENTION_CHUNK];
  threadgroup ulong pages[ATTENTION_SIMDS][ATTENTION_CHUNK];
  threadgroup float tops[ATTENTION_SIMDS];
  threadgroup float sums[ATTENTION_SIMDS];
  threadgroup float parts[ATTENTION_SIMDS][ATTENTION_MOST_WIDTH];
  constant CacheParams& c = p.cache;
  const int head = int(at.x), width = c.head_dim, kv_head = head / (p.heads / c.kv_heads);
  const int sequence = token_sequence[at.y], position = sequence < 0 ? -1 : token_position[at.y];
  const int lowest = p.window > 0 ? max(0, position - p.window + 1) : 0;
  for (int d = int(thread_index); d < width; d += ATTENTION_SIMDS * 32)
    query[d] = q[ulong(at.y) * uint(p.q_stride) + uint(p.q_offset + head * width + d)];
  threadgroup_barrier(mem_flags::mem_threadgroup);

  float top = -INFINITY, sum = 0.0f, out[ATTENTION_MOST_WIDTH / 32];
  for (int i = 0; i < ATTENTION_MOST_WIDTH / 32; i++) out[i] = 0.0f;
  const int first = lowest / ATTENTION_CHUNK, last = position < 0 ? -1 : position / ATTENTION_CHUNK;
  const int begin = first + (int(simd) - first % ATTENTION_SIMDS + ATTENTION_SIMDS) % ATTENTION_SIMDS;
  for (int chunk = begin; chunk <= last; chunk += ATTENTION_SIMDS) {
    const int s = chunk * ATTENTION_CHUNK + int(lane);
    CachePlace place = {0, -1};
    if (s >= lowest && s <= position) place = cache_place(c, page_table, sequence, s);
    float score = -INFINITY;
    const uint from = uint(kv_head * c.page_size + max(place.slot, 0)) * uint(width);
    if (place.slot >= 0) {
      float dot = 0.0f;
      for (int d = 0; d < width; d++) dot = fma(query[d], cached_value(CACHE_TYPE, k_cache + place.page, from + uint(d), c.scales_at), dot);
      score = dot * p.scale;
      if (p.softcap > 0.0f) score = p.softcap * precise::tanh(score / p.softcap);
    }
    const float chunk_top = simd_max(score);
    const float merged = fmax(top, chunk_top);
    if (merged == -INFINITY) continue;
    const float weight = score == -INFINITY ? 0.0f : precise::exp(score - merged), kept = top == -INFINITY ? 0.0f : precise::exp(top - merged);
    simdgroup_barrier(mem_flags::mem_threadgroup);
    weights[simd][lane] = weight;
    places[simd][lane] = from;
    pages[simd][lane] = place.page;
    simdgroup_barrier(mem_flags::mem_threadgroup);
    sum = sum * kept + simd_sum(weight);
    top = merged;
    for (int i = 0; i * 32 + int(lane) < width; i++) {
      float part = out[i] * kept;
      for (int j = 0; j < ATTENTION_CHUNK; j++) {
        const float w = weights[simd][j];
        if (w != 0.0f) part = fma(w, cached_value(CACHE_TYPE, v_cache + pages[simd][j], places[simd][j] + uint(i * 32) + lane, c.scales_at), part);
      }
      out[i] = part;
    }
  }
  if (lane == 0) {
    tops[simd] = top;
    sums[simd] = sum;
  }
  for (int i = 0; i * 32 + int(lane) < width; i++) parts[simd][i * 32 + int(lane)] = out[i];
  threadgroup_barrier(mem_flags::mem_threadgroup);

  float whole = HAS_SINKS ? sinks[head] : -INFINITY;
  for (int i = 0; i < ATTENTION_SIMDS; i++) whole = fmax(whole, tops[i]);
  const float base = whole == -INFINITY ? 0.0f : whole;
  float total = HAS_SINKS ? precise::exp(sinks[head] - base) : 0.0f, factors[ATTENTION_SIMDS];
  for (int i = 0; i < ATTENTION_SIMDS; i++) {
    factors[i] = tops[i] == -INFINITY ? 0.0f : precise::exp(tops[i] - base);
    total = fma(sums[i], factors[i], total);
  }
  for (int d = int(thread_index); d < width; d += ATTENTION_SIMDS * 32) {
    float v = 0.0f;
    for (int i = 0; i < ATTENTION_SIMDS; i++) v = fma(parts[i][d], factors[i], v);
    y[(ulong(at.y) * uint(p.heads) + uint(head)) * uint(width) + uint(d)] = position < 0 ? 0.0f : v / total;
  }
}
