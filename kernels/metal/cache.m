/* What launchers of ops on the paged cache share: see cache.h. */
#include "launch.h"
#include "cache.h"

i32 psi_check_cache(const char* where, i32 tokens, i32 kv_heads, i32 head_dim, i32 page_size, i32 max_pages, i32 type) {
  if (tokens < 0 || kv_heads < 1 || head_dim < 1 || max_pages < 1)
    return psi_fail(PSI_INVALID, "[%s] expected positive sizes, got tokens %d, kv_heads %d, head_dim %d, max_pages %d.", where, tokens, kv_heads, head_dim, max_pages);
  if (page_size < 16 || page_size % 16) return psi_fail(PSI_INVALID, "[%s] expected a page size that is a multiple of 16, got %d.", where, page_size);
  if ((i64)max_pages * page_size > 1 << 30)
    return psi_fail(PSI_UNSUPPORTED, "[%s] expected page tables of at most 2^30 positions, got %d pages of %d.", where, max_pages, page_size);
  if (type != PSI_F32 && type != PSI_F16 && type != PSI_BF16 && type != PSI_Q8_0)
    return psi_fail(PSI_UNSUPPORTED, "[%s] expected a cache of f32, f16, bf16 or q8_0, got dtype %d.", where, type);
  const i32 unit = type == PSI_Q8_0 ? 32 : 16;
  if (head_dim % unit || head_dim > 512)
    return psi_fail(PSI_UNSUPPORTED, "[%s] expected a head width that is a multiple of %d up to 512, got %d.", where, unit, head_dim);
  if ((f64)kv_heads * page_size * head_dim * 4 > 1 << 30)
    return psi_fail(PSI_UNSUPPORTED, "[%s] expected pages of at most 2^30 bytes, got %d heads of %d positions of %d.", where, kv_heads, page_size, head_dim);
  return PSI_OK;
}

CacheParams psi_cache_params(i32 tokens, i32 kv_heads, i32 head_dim, i32 page_size, i32 max_pages, i32 type) {
  const i32 elements = kv_heads * page_size * head_dim, scales_at = elements * (type == PSI_F32 ? 4 : type == PSI_Q8_0 ? 1 : 2);
  return (CacheParams){tokens, kv_heads, head_dim, page_size, max_pages, type, scales_at, scales_at + (type == PSI_Q8_0 ? elements / 32 * 2 : 0)};
}
