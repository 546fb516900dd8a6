/*
 * The paged cache on the device: keys and values of a page alike are [kv_heads][page_size][head_dim] of the cache's type;
 * q8_0: int8 in those places, followed, for the whole page, by f16 scales [kv_heads][page_size][head_dim/32]. fp8: fp8.cuh.
 */
#pragma once
#include "../common/fp8_type.h"
#include "launch.h"

namespace psi {

inline i64 cache_scales_at(i64 kv_heads, i64 head_dim, i64 page_size, i32 type) {
  return kv_heads * page_size * head_dim * (type == F32 ? 4 : type == Q8_0 || type == FP8 ? 1 : 2);
}
inline i64 cache_page_bytes(i64 kv_heads, i64 head_dim, i64 page_size, i32 type) {
  return cache_scales_at(kv_heads, head_dim, page_size, type) + (type == Q8_0 ? kv_heads * page_size * head_dim / 32 * 2 : 0);
}

/* Status of what all ops on a cache are given. Tokens, sequences and pages are on the device: kernels guard against them. */
inline i32 check_cache(const char* where, i32 tokens, i32 kv_heads, i32 head_dim, i32 page_size, i32 max_pages, i32 type) {
  if (tokens < 0 || kv_heads < 1 || head_dim < 1 || max_pages < 1)
    return fail(PSI_INVALID, "[%s] expected positive sizes, got tokens %d, kv_heads %d, head_dim %d, max_pages %d.", where, tokens, kv_heads, head_dim, max_pages);
  if (page_size < 16 || page_size % 16) return fail(PSI_INVALID, "[%s] expected a page size that is a multiple of 16, got %d.", where, page_size);
  if ((i64)max_pages * page_size > 1 << 30)
    return fail(PSI_UNSUPPORTED, "[%s] expected page tables of at most 2^30 positions, got %d pages of %d.", where, max_pages, page_size);
  if (type != F32 && type != F16 && type != BF16 && type != FP8 && type != Q8_0)
    return fail(PSI_UNSUPPORTED, "[%s] expected a cache of f32, f16, bf16, fp8 or q8_0, got dtype %d.", where, type);
  const i32 unit = type == Q8_0 ? 32 : 16;
  if (head_dim % unit || head_dim > 512)
    return fail(PSI_UNSUPPORTED, "[%s] expected a head width that is a multiple of %d up to 512, got %d.", where, unit, head_dim);
  return PSI_OK;
}

}  // namespace psi
