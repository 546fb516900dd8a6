/*
 * The paged cache: keys and values of a page alike are [kv_heads][page_size][head_dim] of the cache's type; q8_0: int8 in those
 * places, followed, for the whole page, by f16 scales [kv_heads][page_size][head_dim/32].
 */
#pragma once
#include "types.h"

struct CacheParams {
  int tokens, kv_heads, head_dim, page_size, max_pages, type;
  int scales_at, page_bytes; /* of q8_0's scales in a page; of a page */
};
typedef struct CacheParams CacheParams;

#ifdef __METAL_VERSION__
#include "weights.h"

struct CachePlace {
  ulong page; /* where its page begins, bytes */
  int slot;   /* position in the page; -1: it has no place */
};
/* Where position `position` of a token's sequence lies: nowhere without a sequence, a page, or room in the table. */
static inline CachePlace cache_place(constant CacheParams& c, device const int* page_table, int sequence, int position) {
  CachePlace place = {0, -1};
  if (sequence < 0 || position < 0 || position / c.page_size >= c.max_pages) return place;
  const int page = page_table[ulong(sequence) * uint(c.max_pages) + uint(position / c.page_size)];
  if (page < 0) return place;
  place.page = ulong(page) * uint(c.page_bytes);
  place.slot = position % c.page_size;
  return place;
}
/* Elements i to i + 3 of a page, i a multiple of 4; type known when the pipeline is made. */
static inline float4 cached_four(int type, device const uchar* page, uint i, int scales_at) {
  if (type == PSI_F32) return *(device const float4*)(page + 4 * i);
  if (type == PSI_F16) return float4(*(device const half4*)(page + 2 * i));
  if (type == PSI_BF16) {
    const ushort4 bits = *(device const ushort4*)(page + 2 * i);
    return float4(bf16_value(bits.x), bf16_value(bits.y), bf16_value(bits.z), bf16_value(bits.w));
  }
  return float4(*(device const char4*)(page + i)) * float(*(device const half*)(page + uint(scales_at) + i / 32 * 2));
}
#else
i32 psi_check_cache(const char* where, i32 tokens, i32 kv_heads, i32 head_dim, i32 page_size, i32 max_pages, i32 type);
CacheParams psi_cache_params(i32 tokens, i32 kv_heads, i32 head_dim, i32 page_size, i32 max_pages, i32 type);
#endif
