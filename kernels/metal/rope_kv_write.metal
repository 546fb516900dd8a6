/*
 * psi_rope of q in place, and of k on its way into the cache with v: the bits of rope.metal, twice, and kv_write.metal, in one launch. k and v
 * stay as they are. Threadgroups of a token: first those of which a thread turns a pair of a query's head, then those of which a thread
 * writes 32 elements of a head (16 where that is what is left), keys before values.
 */
#include <metal_stdlib>
#include "cache_write.h"
#include "rope_kv_write.h"
using namespace metal;

constant int CACHE_TYPE [[function_constant(0)]];

/* Cosine and sine of a pair of a token. */
static inline float2 turn(int position, float frequency, float mscale) {
  const float angle = float(position) * frequency;
  return float2(precise::cos(angle) * mscale, precise::sin(angle) * mscale);
}

/* Element `d` of a head of k, turned. */
static inline float turned(device const float* head, int d, int position, device const float* inv_freq, constant RopeKvWriteParams& p) {
  if (d >= 2 * p.pairs) return head[d];
  const int pair = p.neox != 0 ? d % p.pairs : d / 2;
  const bool second = p.neox != 0 ? d >= p.pairs : d % 2 == 1;
  const float2 t = turn(position, inv_freq[pair], p.mscale);
  const float u = head[p.neox != 0 ? pair : 2 * pair], v = head[p.neox != 0 ? pair + p.pairs : 2 * pair + 1];
  return second ? u * t.y + v * t.x : u * t.x - v * t.y;
}

kernel void rope_kv_write(device float* q [[buffer(0)]], device uchar* k_cache [[buffer(1)]], device uchar* v_cache [[buffer(2)]],
                          device const float* k [[buffer(3)]], device const float* v [[buffer(4)]], device const int* page_table [[buffer(5)]],
                          device const int* token_sequence [[buffer(6)]], device const int* token_position [[buffer(7)]],
                          device const float* inv_freq [[buffer(8)]], constant RopeKvWriteParams& p [[buffer(9)]],
                          uint2 group [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]]) {
  constant CacheParams& c = p.cache;
  const int token = int(group.y), position = token_position[token];
  if (int(group.x) < p.turning) {
    const int i = int(group.x * ROPE_KV_WRITE_THREADS + thread_index), pair = i % p.pairs;
    if (i / p.pairs >= p.heads) return;
    device float* head = q + ulong(group.y) * uint(p.q_stride) + uint(p.q_offset + i / p.pairs * c.head_dim);
    const float2 t = turn(position, inv_freq[pair], p.mscale);
    const int a = p.neox != 0 ? pair : 2 * pair, b = p.neox != 0 ? pair + p.pairs : 2 * pair + 1;
    const float u = head[a], w = head[b];
    head[a] = u * t.x - w * t.y;
    head[b] = u * t.y + w * t.x;
    return;
  }
  const int pieces = (c.head_dim + 31) / 32, i = (int(group.x) - p.turning) * ROPE_KV_WRITE_THREADS + int(thread_index);
  const bool keys = i < c.kv_heads * pieces;
  const int piece = keys ? i : i - c.kv_heads * pieces, head = piece / pieces, from = piece % pieces * 32, count = min(32, c.head_dim - from);
  if (head >= c.kv_heads) return;
  const CachePlace place = cache_place(c, page_table, token_sequence[token], position);
  if (place.slot < 0) return;
  const uint to = uint(head * c.page_size + place.slot) * uint(c.head_dim) + uint(from);
  if (!keys) {
    write_piece(CACHE_TYPE, v_cache + place.page, to, v + ulong(group.y) * uint(p.v_stride) + uint(p.v_offset + head * c.head_dim + from), count, c.scales_at);
    return;
  }
  device const float* row = k + ulong(group.y) * uint(p.k_stride) + uint(p.k_offset + head * c.head_dim);
  float x[32];
  for (int e = 0; e < count; e++) x[e] = turned(row, from + e, position, inv_freq, p);
  write_piece(CACHE_TYPE, k_cache + place.page, to, (thread const float*)x, count, c.scales_at);
}
