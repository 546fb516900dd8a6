/*
 * Writes the keys and values of T tokens into their pages (cache.h): k row t at k + t*k_stride + k_offset, [kv_heads][head_dim]. A token
 * without a place is not written. One thread has 32 elements of a head of a token (16 where that is what is left), keys or values.
 * q8_0: scale = largest / 127, codes rounded half away from zero.
 */
#include <metal_stdlib>
#include "kv_write.h"
using namespace metal;

constant int CACHE_TYPE [[function_constant(0)]];

inline void write_piece(device uchar* page, uint at, device const float* x, int count, int scales_at) {
  if (CACHE_TYPE == PSI_Q8_0) {
    float largest = 0.0f;
    for (int i = 0; i < count; i++) largest = fmax(largest, fabs(x[i]));
    const float scale = largest / 127.0f;
    *(device half*)(page + uint(scales_at) + at / 32 * 2) = half(scale);
    for (int i = 0; i < count; i++) page[at + uint(i)] = uchar(char(scale > 0.0f ? int(round(x[i] / scale)) : 0));
    return;
  }
  for (int i = 0; i < count; i++) {
    const uint to = at + uint(i);
    if (CACHE_TYPE == PSI_F32) *(device float*)(page + 4 * to) = x[i];
    else if (CACHE_TYPE == PSI_F16) *(device half*)(page + 2 * to) = half(x[i]);
    else *(device ushort*)(page + 2 * to) = ushort(bf16_bits(x[i]));
  }
}

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
  write_piece((keys ? k_cache : v_cache) + place.page, to, row + head * c.head_dim + from, min(32, c.head_dim - from), c.scales_at);
}
