/* psi_rope_kv_write: see rope_kv_write.metal. */
#include "launch.h"
#include "rope_kv_write.h"

PSI_API i32 psi_rope_kv_write(void* q, void* k_cache, void* v_cache, const void* k, const void* v, const void* page_table, const void* token_sequence,
                              const void* token_position, const void* inv_freq, i32 tokens, i32 q_stride, i32 q_offset, i32 heads, i32 k_stride, i32 k_offset,
                              i32 v_stride, i32 v_offset, i32 kv_heads, i32 head_dim, i32 page_size, i32 max_pages, i32 cache_type, i32 rotary_dims, i32 neox,
                              f32 mscale) {
  const char* where = "psi_rope_kv_write";
  PSI_TRY(PSI_CHECK_POINTERS(where, q, k_cache, v_cache, k, v, page_table, token_sequence, token_position, inv_freq));
  PSI_TRY(psi_check_cache(where, tokens, kv_heads, head_dim, page_size, max_pages, cache_type));
  const i64 width = (i64)kv_heads * head_dim;
  if (heads < 1 || q_offset < 0 || q_offset + (i64)heads * head_dim > q_stride || k_offset < 0 || v_offset < 0 || k_offset + width > k_stride ||
      v_offset + width > v_stride)
    return psi_fail(PSI_INVALID, "[%s] expected %d heads of %d inside rows of %d, and %lld elements inside rows of %d and %d.", where, heads, head_dim, q_stride,
                    (long long)width, k_stride, v_stride);
  if (rotary_dims < 2 || rotary_dims % 2 || rotary_dims > head_dim)
    return psi_fail(PSI_INVALID, "[%s] expected an even number of rotary dimensions up to %d, got %d.", where, head_dim, rotary_dims);
  if (tokens == 0) return PSI_OK;
  const i64 turning = PSI_DIVIDE_UP((i64)heads * (rotary_dims / 2), ROPE_KV_WRITE_THREADS);
  const i64 writing = PSI_DIVIDE_UP(2 * kv_heads * PSI_DIVIDE_UP(head_dim, 32), ROPE_KV_WRITE_THREADS);
  PsiLaunch l = psi_kernel("rope_kv_write", "rope_kv_write");
  psi_constant_int(&l, 0, cache_type);
  psi_write(&l, 0, q, 4.0 * tokens * q_stride);
  psi_write(&l, 1, k_cache, psi_bytes_after(k_cache));
  psi_write(&l, 2, v_cache, psi_bytes_after(v_cache));
  psi_read(&l, 3, k, 4.0 * ((f64)(tokens - 1) * k_stride + k_offset + width));
  psi_read(&l, 4, v, 4.0 * ((f64)(tokens - 1) * v_stride + v_offset + width));
  psi_read(&l, 5, page_table, psi_bytes_after(page_table));
  psi_read(&l, 6, token_sequence, 4.0 * tokens);
  psi_read(&l, 7, token_position, 4.0 * tokens);
  psi_read(&l, 8, inv_freq, 2.0 * rotary_dims);
  const RopeKvWriteParams p = {psi_cache_params(tokens, kv_heads, head_dim, page_size, max_pages, cache_type), q_stride, q_offset, heads, k_stride, k_offset, v_stride,
                               v_offset, rotary_dims / 2, neox != 0, (i32)turning, mscale};
  psi_params(&l, 9, &p, sizeof p);
  return psi_launch(&l, turning + writing, tokens, 1, ROPE_KV_WRITE_THREADS, 1, 1);
}
