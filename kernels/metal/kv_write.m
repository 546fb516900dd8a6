/* psi_kv_write: see kv_write.metal. */
#include "launch.h"
#include "kv_write.h"

PSI_API i32 psi_kv_write(void* k_cache, void* v_cache, const void* k, const void* v, const void* page_table, const void* token_sequence, const void* token_position,
                         i32 tokens, i32 k_stride, i32 k_offset, i32 v_stride, i32 v_offset, i32 kv_heads, i32 head_dim, i32 page_size, i32 max_pages, i32 cache_type) {
  PSI_TRY(PSI_CHECK_POINTERS("psi_kv_write", k_cache, v_cache, k, v, page_table, token_sequence, token_position));
  PSI_TRY(psi_check_cache("psi_kv_write", tokens, kv_heads, head_dim, page_size, max_pages, cache_type));
  const i64 width = (i64)kv_heads * head_dim;
  if (k_offset < 0 || v_offset < 0 || k_offset + width > k_stride || v_offset + width > v_stride)
    return psi_fail(PSI_INVALID, "[psi_kv_write] expected %lld elements inside rows of %d and %d.", (long long)width, k_stride, v_stride);
  if (tokens == 0) return PSI_OK;
  PsiLaunch l = psi_kernel("kv_write", "kv_write");
  psi_constant_int(&l, 0, cache_type);
  psi_write(&l, 0, k_cache, psi_bytes_after(k_cache));
  psi_write(&l, 1, v_cache, psi_bytes_after(v_cache));
  psi_read(&l, 2, k, 4.0 * tokens * k_stride);
  psi_read(&l, 3, v, 4.0 * tokens * v_stride);
  psi_read(&l, 4, page_table, psi_bytes_after(page_table));
  psi_read(&l, 5, token_sequence, 4.0 * tokens);
  psi_read(&l, 6, token_position, 4.0 * tokens);
  KvWriteParams p = {psi_cache_params(tokens, kv_heads, head_dim, page_size, max_pages, cache_type), k_stride, k_offset, v_stride, v_offset};
  psi_params(&l, 7, &p, sizeof p);
  return psi_launch(&l, PSI_DIVIDE_UP(kv_heads * PSI_DIVIDE_UP(head_dim, 32), 32), tokens, 2, 32, 1, 1);
}
