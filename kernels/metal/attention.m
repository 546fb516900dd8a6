/* psi_attention: see attention.metal. It needs no scratch. */
#include "launch.h"
#include "attention.h"

PSI_API i32 psi_attention(void* y, const void* q, const void* k_cache, const void* v_cache, const void* page_table, const void* token_sequence,
                          const void* token_position, const void* sinks, void* scratch, i32 tokens, i32 q_stride, i32 q_offset, i32 heads, i32 kv_heads, i32 head_dim,
                          i32 page_size, i32 max_pages, i32 window, i32 cache_type, f32 scale, f32 softcap, f64 scratch_bytes) {
  (void)scratch;
  (void)scratch_bytes;
  PSI_TRY(PSI_CHECK_POINTERS("psi_attention", y, q, k_cache, v_cache, page_table, token_sequence, token_position));
  PSI_TRY(psi_check_cache("psi_attention", tokens, kv_heads, head_dim, page_size, max_pages, cache_type));
  if (heads < 1 || heads % kv_heads) return psi_fail(PSI_INVALID, "[psi_attention] expected heads in multiples of %d, got %d.", kv_heads, heads);
  if (q_offset < 0 || (i64)q_offset + (i64)heads * head_dim > q_stride)
    return psi_fail(PSI_INVALID, "[psi_attention] expected %d heads of %d inside rows of %d, got them at %d.", heads, head_dim, q_stride, q_offset);
  if (window < 0 || !(softcap >= 0)) return psi_fail(PSI_INVALID, "[psi_attention] expected a window and a cap of at least 0, got %d and %g.", window, (double)softcap);
  if (tokens == 0) return PSI_OK;
  PsiLaunch l = psi_kernel("attention", "attention");
  psi_constant_int(&l, 0, cache_type);
  psi_constant_bool(&l, 1, sinks != NULL);
  psi_write(&l, 0, y, 4.0 * tokens * heads * head_dim);
  psi_read(&l, 1, q, 4.0 * tokens * q_stride);
  psi_read(&l, 2, k_cache, psi_bytes_after(k_cache));
  psi_read(&l, 3, v_cache, psi_bytes_after(v_cache));
  psi_read(&l, 4, page_table, psi_bytes_after(page_table));
  psi_read(&l, 5, token_sequence, 4.0 * tokens);
  psi_read(&l, 6, token_position, 4.0 * tokens);
  psi_read(&l, 7, sinks, sinks ? 4.0 * heads : 0);
  AttentionParams p = {psi_cache_params(tokens, kv_heads, head_dim, page_size, max_pages, cache_type), q_stride, q_offset, heads, window, scale, softcap};
  psi_params(&l, 8, &p, sizeof p);
  return psi_launch(&l, heads, tokens, 1, ATTENTION_SIMDS * 32, 1, 1);
}
