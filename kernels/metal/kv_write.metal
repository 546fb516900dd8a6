/*
 * Writes the keys and values of T tokens into their pages (cache.h): k row t at k + t*k_stride + k_offset, [kv_heads][head_dim]. A token
 * without a place is not written. One thread has 32 elements of a head of a token (16 where that is what is left), keys or values.
 */
#include <metal_stdlib>
#include "cache_write.h"
#include "kv_write.h"
using namespace metal;

constant int CACHE_TYPE [[function_constant(0)]];

kernel void kv_write(device uchar* k_cache [[buffer(0)]], device uchar* v_cache [[buffer(1)]], device const float* k [[buffer(2)]],
                     device const float* v [[buffer(3)]], device const int* page_table [[buffer(4)]], device const int* token_sequence [[buffer(5)]],
                     device const int* token_position [[buffer(6)]], constant KvWriteParams& p [[buffer(7)]],
                     uint3 at [[thread_position_in_grid]]) {
  constant CacheParams& c = p.cache;
  const int pieces = (c.head_dim + 31) / 32, head = int(at.x) / pieces, from = int(at.x) % pieces * 32;
  if (head >= c.kv_heads) return;
  const CachePlace place = cache_place(c, page_table, token_sequence[at.y], token_position[at.y]);
  if (place.slot < 0) return;
  const bool keys = at.z == 0;
  device const float* row = keys ? k + ulong(at.y) * uint(p.k_stride) + uint(p.k_offset) : v + ulong(at.y) * uint(p.v_stride) + uint(p.v_offset);
  const uint to = uint(head * c.page_size + place.slot) * uint(c.head_dim) + uint(from);
  write_piece(CACHE_TYPE, (keys ? k_cache : v_cache) + place.page, to, row + head * c.head_dim + from, min(32, c.head_dim - from), c.scales_at);
}
