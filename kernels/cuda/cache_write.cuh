/* How eight numbers of a key or value get into the cache (cache.h): kv_write and rope_kv_write. */
#pragma once
#include "cache.h"
#include "fp8.cuh"
#include "instructions.h"

namespace psi {

/* Where new keys and values go, and in which form. */
struct CacheTarget {
  u8 *k_cache, *v_cache;
  const i32 *page_table, *token_sequence, *token_position;
  i64 page_bytes, scales_at;
  i32 kv_heads, head_dim, page_size, max_pages, type;
};

inline CacheTarget cache_target(void* k_cache, void* v_cache, const void* page_table, const void* token_sequence, const void* token_position,
                                i32 kv_heads, i32 head_dim, i32 page_size, i32 max_pages, i32 type) {
  return {(u8*)k_cache, (u8*)v_cache, (const i32*)page_table, (const i32*)token_sequence, (const i32*)token_position,
          cache_page_bytes(kv_heads, head_dim, page_size, type), cache_scales_at(kv_heads, head_dim, page_size, type),
          kv_heads, head_dim, page_size, max_pages, type};
}

/* Byte offset of a token's page, negative where it has none; `slot`: its position in there. */
__device__ __forceinline__ i64 page_of(const CacheTarget& c, i32 token, i32& slot) {
  const i32 sequence = c.token_sequence[token], position = c.token_position[token];
  slot = 0;
  if (sequence < 0 || position < 0 || position >= c.max_pages * c.page_size) return -1;
  slot = position % c.page_size;
  return c.page_table[(i64)sequence * c.max_pages + position / c.page_size] * c.page_bytes;
}

/*
 * Elements d ... d+7 of a head as the cache's type; all lanes of the warp come here, four neighbours with a block of 32.
 * q8_0: scale = amax / 127, stored as f16; elements rounded, halves away from zero, with the f32 scale.
 */
__device__ __forceinline__ void write_piece(const CacheTarget& c, u8* cache, i64 page, i32 slot, i32 head, i32 d, const float* x, bool valid) {
  float amax = 0;
#pragma unroll
  for (int i = 0; i < 8; i++) amax = fmaxf(amax, fabsf(x[i]));
  amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, 1));
  amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, 2));
  if (!valid || page < 0) return;
  const i64 at = ((i64)head * c.page_size + slot) * c.head_dim + d;
  u8* base = cache + page;
  if (c.type == F32) {
    *(float4*)(base + at * 4) = make_float4(x[0], x[1], x[2], x[3]);
    *(float4*)(base + at * 4 + 16) = make_float4(x[4], x[5], x[6], x[7]);
  } else if (c.type == F16) {
    *(uint4*)(base + at * 2) = make_uint4(pack_f16(x[0], x[1]), pack_f16(x[2], x[3]), pack_f16(x[4], x[5]), pack_f16(x[6], x[7]));
  } else if (c.type == BF16) {
    *(uint4*)(base + at * 2) = make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7]));
  } else if (c.type == FP8) {
    u32 codes[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < 8; i++) codes[i / 4] |= e4m3_bits(x[i]) << i % 4 * 8;
    *(uint2*)(base + at) = make_uint2(codes[0], codes[1]);
  } else {
    const float scale = amax / 127.0f;
    u32 codes[2] = {0, 0};
    if (scale > 0) {
#pragma unroll
      for (int i = 0; i < 8; i++) codes[i / 4] |= (u32)((i32)roundf(x[i] / scale) & 0xff) << i % 4 * 8;
    }
    *(uint2*)(base + at) = make_uint2(codes[0], codes[1]);
    if (d % 32 == 0) *(u16*)(base + c.scales_at + at / 32 * 2) = (u16)f16_bits(scale);
  }
}

}  // namespace psi
