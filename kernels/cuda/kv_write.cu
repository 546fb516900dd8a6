/* Writes the keys and values of T tokens into their pages: k row t at k + t*k_stride + k_offset, [kv_heads][head_dim]. */
#include "cache_write.cuh"

namespace psi {

/* A thread per eight elements; y of the grid: keys, values. */
__global__ void __launch_bounds__(256) kv_write_kernel(CacheTarget c, const float* k, const float* v, i64 k_stride, i64 v_stride, i64 pieces) {
  let_next_start();
  wait_for_inputs();
  const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  const bool valid = i < pieces;
  const i32 per_head = c.head_dim / 8, per_token = c.kv_heads * per_head;
  const i32 token = valid ? (i32)(i / per_token) : 0, rest = valid ? (i32)(i % per_token) : 0;
  const bool keys = blockIdx.y == 0;
  const float* row = keys ? k + token * k_stride : v + token * v_stride;
  float x[8];
#pragma unroll
  for (int j = 0; j < 8; j++) x[j] = row[rest * 8 + j];
  i32 slot;
  const i64 page = page_of(c, token, slot);
  write_piece(c, keys ? c.k_cache : c.v_cache, page, slot, rest / per_head, rest % per_head * 8, x, valid);
}

}  // namespace psi

PSI_API i32 psi_kv_write(void* k_cache, void* v_cache, const void* k, const void* v, const void* page_table, const void* token_sequence, const void* token_position, i32 tokens, i32 k_stride, i32 k_offset, i32 v_stride, i32 v_offset, i32 kv_heads, i32 head_dim, i32 page_size, i32 max_pages, i32 cache_type) {
  using namespace psi;
  if (!k_cache || !v_cache || !k || !v || !page_table || !token_sequence || !token_position)
    return fail(PSI_INVALID, "[psi_kv_write] expected non-null pointers.");
  PSI_TRY(check_cache("psi_kv_write", tokens, kv_heads, head_dim, page_size, max_pages, cache_type));
  const i64 width = (i64)kv_heads * head_dim;
  if (k_offset < 0 || v_offset < 0 || k_offset + width > k_stride || v_offset + width > v_stride)
    return fail(PSI_INVALID, "[psi_kv_write] expected %lld elements inside rows of %d and %d.", (long long)width, k_stride, v_stride);
  const CacheTarget c = cache_target(k_cache, v_cache, page_table, token_sequence, token_position, kv_heads, head_dim, page_size, max_pages, cache_type);
  const i64 pieces = tokens * (width / 8);
  return launch("psi_kv_write", kv_write_kernel, dim3((u32)PSI_DIVIDE_UP(pieces, 256), 2), dim3(256), 0, c, (const float*)k + k_offset,
                (const float*)v + v_offset, k_stride, v_stride, pieces);
}
