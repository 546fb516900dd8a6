/*
 * psi_rope_kv_write after RMS norms of the heads: q normed by q_norm and turned in place, k normed by k_norm and turned on its way
 * into the cache, v on its way there, normed without a weight where norm_values says so. The bits of psi_rms_norm and
 * psi_rope_kv_write; k and v stay as they are. A warp makes a head of a token; its elements pass through shared memory, for
 * a pair's two lie with different lanes. Without k and v: queries alone.
 */
#include "cache_write.cuh"
#include "norm.cuh"
#include "rotation.cuh"

namespace psi {

/* Warps of a block: one of few heads, with little shared memory, so that it finds room beside the product before it. */
constexpr int ROPE_WARPS = 4;
constexpr i64 FEW_ROPE_TASKS = 4096;

struct NormRopeKvWrite {
  CacheTarget cache;
  Rotation rotation;
  float* q;
  const float *k, *v, *q_norm, *k_norm;
  i64 q_stride, k_stride, v_stride;
  i32 heads, tasks_of_token; /* heads of q, then of k, then of v */
  i64 tasks;
  i32 norm_values;
  float eps;
};

__global__ void __launch_bounds__(32 * ROPE_WARPS) norm_rope_kv_write_kernel(const __grid_constant__ NormRopeKvWrite o) {
  PSI_DYNAMIC_SHARED(shared);
  let_next_start();
  const Rotation& r = o.rotation;
  const CacheTarget& c = o.cache;
  const i32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, width = c.head_dim;
  const i64 task = (i64)blockIdx.x * (blockDim.x / 32) + warp;
  if (task >= o.tasks) {
    wait_for_inputs();
    return;
  }
  const i32 token = (i32)(task / o.tasks_of_token), place = (i32)(task % o.tasks_of_token);
  const bool query = place < o.heads, value = place >= o.heads + c.kv_heads;
  const i32 head = query ? place : value ? place - o.heads - c.kv_heads : place - o.heads;
  const float* from = (query ? o.q + token * o.q_stride : value ? o.v + token * o.v_stride : o.k + token * o.k_stride) + (i64)head * width;
  const float* w = query ? o.q_norm : value ? nullptr : o.k_norm;
  float* own = (float*)shared + warp * 2 * width;
  float2* turn = (float2*)(own + width); /* cosine and sine of each pair */

  /* before the inputs are there: weights, sines, the place in the cache */
  const bool whole = ((uintptr_t)from | (uintptr_t)w) % 16 == 0;
  NormPiece weights[NORM_KEPT], x[NORM_KEPT];
#pragma unroll
  for (int i = 0; i < NORM_KEPT; i++) {
    const i32 k = (lane + i * 32) * 4;
    weights[i] = {{1.0f, 1.0f, 1.0f, 1.0f}};
    if (w && k < width) weights[i] = read_piece(w, k, width, whole);
  }
  if (!value) {
    const i32 position = c.token_position[token];
#pragma unroll 2
    for (i32 pair = lane; pair < r.pairs; pair += 32) rotation_of(r, position, pair, turn[pair].x, turn[pair].y);
  }
  i32 slot = 0;
  const i64 page = query ? 0 : page_of(c, token, slot);
  wait_for_inputs();

  float squares = 0.0f;
#pragma unroll
  for (int i = 0; i < NORM_KEPT; i++) {
    const i32 k = (lane + i * 32) * 4;
    if (k < width) x[i] = read_piece(from, k, width, whole);
  }
#pragma unroll
  for (int i = 0; i < NORM_KEPT; i++)
    if ((lane + i * 32) * 4 < width)
      for (int j = 0; j < 4; j++) squares = fmaf(x[i].v[j], x[i].v[j], squares);
  squares = warp_sum(squares);
  const float scale = 1.0f / sqrtf(squares / (float)width + o.eps);
  const bool norms = !value || o.norm_values;
#pragma unroll
  for (int i = 0; i < NORM_KEPT; i++) {
    const i32 k = (lane + i * 32) * 4;
    if (k >= width) continue;
    if (norms)
      for (int j = 0; j < 4; j++) x[i].v[j] = __fmul_rn(__fmul_rn(x[i].v[j], scale), weights[i].v[j]);
    write_piece(own, k, width, true, x[i]);
  }
  __syncwarp();
  if (!value) {
#pragma unroll 4
    for (i32 pair = lane; pair < r.pairs; pair += 32) {
      float *a = own + (r.neox ? pair : 2 * pair), *b = own + (r.neox ? pair + r.pairs : 2 * pair + 1);
      const float first = *a, second = *b, cosine = turn[pair].x, sine = turn[pair].y;
      *a = turned_first(first, second, cosine, sine), *b = turned_second(first, second, cosine, sine);
    }
    __syncwarp();
  }
  if (query) {
    float* to = o.q + token * o.q_stride + (i64)head * width;
#pragma unroll
    for (int i = 0; i < NORM_KEPT; i++) {
      const i32 k = (lane + i * 32) * 4;
      if (k < width) write_piece(to, k, width, whole, read_piece(own, k, width, true));
    }
    return;
  }
  for (i32 first = 0; first < width; first += 256) { /* all lanes come to the cache's pieces */
    const i32 d = first + lane * 8;
    const bool valid = d < width;
    float y[8];
#pragma unroll
    for (int j = 0; j < 8; j++) y[j] = valid ? own[d + j] : 0.0f;
    write_piece(c, value ? c.v_cache : c.k_cache, page, slot, head, d, y, valid);
  }
}

}  // namespace psi

PSI_API i32 psi_norm_rope_kv_write(void* q, void* k_cache, void* v_cache, const void* k, const void* v, const void* q_norm, const void* k_norm, const void* page_table, const void* token_sequence, const void* token_position, const void* inv_freq, i32 tokens, i32 q_stride, i32 q_offset, i32 heads, i32 k_stride, i32 k_offset, i32 v_stride, i32 v_offset, i32 kv_heads, i32 head_dim, i32 page_size, i32 max_pages, i32 cache_type, i32 rotary_dims, i32 neox, i32 norm_values, f32 mscale, f32 eps) {
  using namespace psi;
  const char* where = "psi_norm_rope_kv_write";
  const bool alone = !k && !v;
  if (!q || !q_norm || !page_table || !token_sequence || !token_position || !inv_freq || (!alone && (!k || !v || !k_norm || !k_cache || !v_cache)))
    return fail(PSI_INVALID, "[%s] expected non-null pointers, but for k and v, which may both be null.", where);
  PSI_TRY(check_cache(where, tokens, kv_heads, head_dim, page_size, max_pages, cache_type));
  const i64 width = (i64)kv_heads * head_dim;
  if (heads < 1 || q_offset < 0 || q_offset + (i64)heads * head_dim > q_stride ||
      (!alone && (k_offset < 0 || v_offset < 0 || k_offset + width > k_stride || v_offset + width > v_stride)))
    return fail(PSI_INVALID, "[%s] expected %d heads of %d inside rows of %d, and %lld elements inside rows of %d and %d.", where, heads, head_dim, q_stride, (long long)width, k_stride, v_stride);
  if (rotary_dims < 2 || rotary_dims % 2 || rotary_dims > head_dim)
    return fail(PSI_INVALID, "[%s] expected an even number of rotary dimensions up to %d, got %d.", where, head_dim, rotary_dims);
  NormRopeKvWrite o = {};
  o.cache = cache_target(k_cache, v_cache, page_table, token_sequence, token_position, kv_heads, head_dim, page_size, max_pages, cache_type);
  o.rotation = {(const float*)inv_freq, rotary_dims / 2, neox != 0, mscale};
  o.q = (float*)q + q_offset, o.q_norm = (const float*)q_norm, o.k_norm = (const float*)k_norm;
  if (!alone) o.k = (const float*)k + k_offset, o.v = (const float*)v + v_offset;
  o.q_stride = q_stride, o.k_stride = k_stride, o.v_stride = v_stride;
  o.heads = heads, o.tasks_of_token = alone ? heads : heads + 2 * kv_heads;
  o.tasks = (i64)tokens * o.tasks_of_token;
  o.norm_values = norm_values, o.eps = eps;
  const int warps = o.tasks <= FEW_ROPE_TASKS ? 1 : ROPE_WARPS;
  return launch(where, norm_rope_kv_write_kernel, dim3((unsigned)PSI_DIVIDE_UP(o.tasks, warps)), dim3(32 * warps), (size_t)warps * 2 * head_dim * 4, o);
}
