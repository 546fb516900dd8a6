/*
 * psi_rope of q in place, and of k on its way into the cache with v: the bits of psi_rope, psi_rope and psi_kv_write in
 * one kernel. k and v stay as they are.
 */
#include "cache_write.cuh"
#include "rotation.cuh"

namespace psi {

struct RopeKvWrite {
  CacheTarget cache;
  Rotation rotation;
  float* q;
  const float *k, *v;
  i64 q_stride, k_stride, v_stride;
  i32 heads, each; /* heads of q that a thread turns */
  i64 turns, pieces; /* threads for q, and for keys and as many for values */
};

/* Element d of a rotated head, whose pair turns by `cosine` and `sine`. */
__device__ __forceinline__ float turned(const Rotation& r, const float* head, i32 d, i32 pair, float cosine, float sine) {
  if (d >= 2 * r.pairs) return head[d];
  const bool second = r.neox ? d >= r.pairs : d % 2 == 1;
  const float a = head[r.neox ? pair : 2 * pair], b = head[r.neox ? pair + r.pairs : 2 * pair + 1];
  return second ? turned_second(a, b, cosine, sine) : turned_first(a, b, cosine, sine);
}

/* Blocks for q, then blocks for eight elements of k or v a thread. Sines and places are found before q, k and v are there. */
__global__ void __launch_bounds__(256) rope_kv_write_kernel(const RopeKvWrite o, i32 turning_blocks) {
  let_next_start();
  const Rotation& r = o.rotation;
  const CacheTarget& c = o.cache;
  if ((i32)blockIdx.x < turning_blocks) {
    const i64 thread = (i64)blockIdx.x * blockDim.x + threadIdx.x, i = min(thread, o.turns - 1);
    const i32 pair = (i32)(i % r.pairs), sets = PSI_DIVIDE_UP(o.heads, o.each), set = (i32)(i / r.pairs % sets);
    const i64 row = i / r.pairs / sets;
    float cosine, sine;
    rotation_of(r, c.token_position[row], pair, cosine, sine);
    wait_for_inputs();
    if (thread < o.turns) turn_heads(r, o.q + row * o.q_stride, c.head_dim, set * o.each, min(set * o.each + o.each, o.heads), pair, cosine, sine);
    return;
  }
  const i64 i = (i64)(blockIdx.x - turning_blocks) * blockDim.x + threadIdx.x;
  const bool valid = i < 2 * o.pieces, keys = i < o.pieces;
  const i64 piece = !valid ? 0 : keys ? i : i - o.pieces;
  const i32 per_head = c.head_dim / 8, per_token = c.kv_heads * per_head;
  const i32 token = (i32)(piece / per_token), rest = (i32)(piece % per_token), head = rest / per_head, d = rest % per_head * 8;
  const float* from = (keys ? o.k + token * o.k_stride : o.v + token * o.v_stride) + (i64)head * c.head_dim;
  i32 slot;
  const i64 page = page_of(c, token, slot);
  i32 pair[8] = {};
  float cosine[8], sine[8], x[8];
  if (keys) {
    const i32 position = c.token_position[token];
#pragma unroll
    for (int j = 0; j < 8; j++)
      if (d + j < 2 * r.pairs) {
        pair[j] = r.neox ? (d + j) % r.pairs : (d + j) / 2;
        rotation_of(r, position, pair[j], cosine[j], sine[j]);
      }
  }
  wait_for_inputs();
  if (keys) {
#pragma unroll
    for (int j = 0; j < 8; j++) x[j] = turned(r, from, d + j, pair[j], cosine[j], sine[j]);
  } else {
#pragma unroll
    for (int j = 0; j < 8; j++) x[j] = from[d + j];
  }
  write_piece(c, keys ? c.k_cache : c.v_cache, page, slot, head, d, x, valid);
}

}  // namespace psi

PSI_API i32 psi_rope_kv_write(void* q, void* k_cache, void* v_cache, const void* k, const void* v, const void* page_table, const void* token_sequence, const void* token_position, const void* inv_freq, i32 tokens, i32 q_stride, i32 q_offset, i32 heads, i32 k_stride, i32 k_offset, i32 v_stride, i32 v_offset, i32 kv_heads, i32 head_dim, i32 page_size, i32 max_pages, i32 cache_type, i32 rotary_dims, i32 neox, f32 mscale) {
  using namespace psi;
  const char* where = "psi_rope_kv_write";
  if (!q || !k_cache || !v_cache || !k || !v || !page_table || !token_sequence || !token_position || !inv_freq)
    return fail(PSI_INVALID, "[%s] expected non-null pointers.", where);
  PSI_TRY(check_cache(where, tokens, kv_heads, head_dim, page_size, max_pages, cache_type));
  const i64 width = (i64)kv_heads * head_dim;
  if (heads < 1 || q_offset < 0 || q_offset + (i64)heads * head_dim > q_stride || k_offset < 0 || v_offset < 0 || k_offset + width > k_stride ||
      v_offset + width > v_stride)
    return fail(PSI_INVALID, "[%s] expected %d heads of %d inside rows of %d, and %lld elements inside rows of %d and %d.", where, heads, head_dim, q_stride, (long long)width, k_stride, v_stride);
  if (rotary_dims < 2 || rotary_dims % 2 || rotary_dims > head_dim)
    return fail(PSI_INVALID, "[%s] expected an even number of rotary dimensions up to %d, got %d.", where, head_dim, rotary_dims);
  RopeKvWrite o = {};
  o.cache = cache_target(k_cache, v_cache, page_table, token_sequence, token_position, kv_heads, head_dim, page_size, max_pages, cache_type);
  o.rotation = {(const float*)inv_freq, rotary_dims / 2, neox != 0, mscale};
  o.q = (float*)q + q_offset, o.k = (const float*)k + k_offset, o.v = (const float*)v + v_offset;
  o.q_stride = q_stride, o.k_stride = k_stride, o.v_stride = v_stride;
  o.heads = heads, o.each = heads_at_once(tokens);
  o.turns = (i64)tokens * PSI_DIVIDE_UP(heads, o.each) * o.rotation.pairs;
  o.pieces = tokens * (width / 8);
  const i64 turning = PSI_DIVIDE_UP(o.turns, 256), writing = PSI_DIVIDE_UP(2 * o.pieces, 256);
  return launch(where, rope_kv_write_kernel, dim3((u32)(turning + writing)), dim3(256), 0, o, (i32)turning);
}
