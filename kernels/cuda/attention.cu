/*
 * Causal attention over the paged cache: q f32, token t's head h at q + t*q_stride + q_offset + h*head_dim; y f32
 * [tokens, heads*head_dim]. How it is cut, and why its bits depend on nothing else: attention.h.
 */
#include <stdint.h>

#include "attention.h"
#include "attention_decode.cuh"
#include "attention_prefill.cuh"
#include "cache.h"

namespace psi {

extern template i32 attention_with<OPERAND_F16>(const Attention& a, AttentionWay way);
extern template i32 attention_with<OPERAND_BF16>(const Attention& a, AttentionWay way);
extern template i32 attention_with<OPERAND_CONVERTED>(const Attention& a, AttentionWay way);

/* Folds 256 tiles at a time: their factors come from a scan of the maxima, their sums through a ring in shared memory. */
constexpr int FOLD_THREADS = 256, FOLD_BUFFERS = 4, FOLD_FLOATS = 4096;
/* Elements of a head that a block folds: few where that keeps the device's multiprocessors busy, whose blocks then have most under way at once. */
constexpr int FOLD_NARROW = 32, FOLD_WIDE = 128;
constexpr int FOLD_SHARED = FOLD_BUFFERS * FOLD_FLOATS * 4 + FOLD_THREADS * 16 + 32;

/* Factors of tiles base ... base+255 (those below count), M before them known; returns M after them. */
__device__ __forceinline__ float scan_factors(const float* sums, i32 base, i32 count, float M, float4* factors, float* warp_tops) {
  const int thread = threadIdx.x, lane = thread % 32;
  float2 own = make_float2(-INFINITY, 0);
  if (base + thread < count) own = *(const float2*)(sums + (i64)(base + thread) * 2);
  float top = own.x;
#pragma unroll
  for (int o = 1; o < 32; o *= 2) {
    const float other = __shfl_up_sync(~0u, top, o);
    if (lane >= o) top = fmaxf(top, other);
  }
  float before = __shfl_up_sync(~0u, top, 1);
  before = fmaxf(M, lane == 0 ? -INFINITY : before);
  if (lane == 31) warp_tops[thread / 32] = top;
  __syncthreads();
#pragma unroll 2
  for (int w = 0; w < FOLD_THREADS / 32; w++) {
    if (w < thread / 32) before = fmaxf(before, warp_tops[w]);
    M = fmaxf(M, warp_tops[w]);
  }
  float old, now;
  fold_factors(before, own.x, old, now);
  factors[thread] = make_float4(old, now, own.y, 0);
  __syncthreads();
  return M;
}

/* A block per head, token and `part` elements of the head: each thread of theirs folds one, the next warp the sums of weights. */
__global__ void __launch_bounds__(FOLD_THREADS) attention_fold(const Attention a, i32 part) {
  let_next_start();
  PSI_DYNAMIC_SHARED(shared);
  float* ring = (float*)shared;
  float4* factors = (float4*)(ring + FOLD_BUFFERS * FOLD_FLOATS);
  float* warp_tops = (float*)(factors + FOLD_THREADS);
  const i32 head = blockIdx.x, token = blockIdx.y, begin = blockIdx.z * part, e = min(a.head_dim - begin, part);
  i32 first;
  const i32 count = tiles_of(a, position_of(a, token), first);
  const i64 record = ((i64)token * a.heads + head) * a.tiles;
  const float *parts = a.partial + record * a.head_dim + begin, *sums = a.partial_sums + record * 2;
  const i32 each = FOLD_FLOATS / part; /* tiles of a stage */
  const i32 row_threads = e / 4;
  const i32 stages = PSI_DIVIDE_UP(count, each);
  wait_for_inputs();
  auto issue = [&](i32 stage) {
    if (stage < stages) {
      const i32 tiles = min(each, count - stage * each);
      float* to = ring + stage % FOLD_BUFFERS * FOLD_FLOATS;
      const float* from = parts + (i64)stage * each * a.head_dim;
#pragma unroll 1
      for (i32 i = threadIdx.x; i < tiles * row_threads; i += FOLD_THREADS) {
        const i32 tile = i / row_threads, at = i % row_threads * 4;
        copy_async16(to + tile * e + at, from + (i64)tile * a.head_dim + at);
      }
    }
    copy_async_commit();
  };
#pragma unroll 1
  for (i32 stage = 0; stage < FOLD_BUFFERS - 1; stage++) issue(stage);

  const bool folds = (i32)threadIdx.x < e, weighs = (i32)threadIdx.x == part;
  float M = -INFINITY, total = 0; /* of elements, or of weights */
#pragma unroll 1
  for (i32 stage = 0; stage < stages; stage++) {
    const i32 base = stage * each, end = min(each, count - base);
    if (base % FOLD_THREADS == 0) M = scan_factors(sums, base, count, M, factors, warp_tops);
    copy_async_wait<FOLD_BUFFERS - 2>();
    __syncthreads();
    issue(stage + FOLD_BUFFERS - 1);
    const float* sum = ring + stage % FOLD_BUFFERS * FOLD_FLOATS + threadIdx.x;
    const float4* f = factors + base % FOLD_THREADS;
    if (folds)
#pragma unroll 8
      for (i32 i = 0; i < end; i++) total = folded(total, f[i].x, sum[i * e], f[i].y);
    else if (weighs)
#pragma unroll 8
      for (i32 i = 0; i < end; i++) total = folded(total, f[i].x, f[i].z, f[i].y);
    if ((base + each) % FOLD_THREADS == 0) __syncthreads();
  }
  if (weighs) warp_tops[0] = total;
  __syncthreads();
  if (folds) a.y[((i64)token * a.heads + head) * a.head_dim + begin + threadIdx.x] = total * finish(a, head, M, warp_tops[0]);
}

template <int HEAD>
static i32 run_rows() { return RunForm<HEAD>::ROWS; }

static i32 rows_of_runs(i32 head_dim) { return head_dim <= 128 ? run_rows<128>() : head_dim <= 256 ? run_rows<256>() : run_rows<512>(); }

/* Tiles that blocks of the direct kernel take side by side. */
static i32 teams_of_direct(i32 head_dim) {
  return head_dim <= 64 ? DecodeForm<64>::TEAMS : head_dim <= 128 ? DecodeForm<128>::TEAMS : DecodeForm<256>::TEAMS;
}

static i32 start(const Attention& a, AttentionWay way) {
  if (a.cache_type == F16) return attention_with<OPERAND_F16>(a, way);
  if (a.cache_type == BF16) return attention_with<OPERAND_BF16>(a, way);
  return attention_with<OPERAND_CONVERTED>(a, way);
}

/* Runs of fewer tokens than this are taken token by token: a block of rows would be mostly empty. */
constexpr i32 SHORTEST_RUN = 4;
/* Up to so many tokens no run is looked for, and of up to so many the tiles are spread over the device. */
constexpr i32 FEW_TOKENS = 32, SPLIT_TOKENS = 4, SPLIT_WIDE_TOKENS = 16;
constexpr double MOST_SPREAD_BYTES = 64 << 20;

/* Bytes of partial results of `tokens` tokens with so many tiles each. */
static double spread_bytes(const Attention& a, i32 tokens, double tiles) { return (double)tokens * a.heads * tiles * (a.head_dim + 2) * 4; }

/* Whether there is scratch for the tiles of all tokens. More than a few are spread where heads are wide, whose tiles take long. */
static bool spreads(const Attention& a) {
  if (a.tokens <= SPLIT_TOKENS) return true;
  return a.tokens <= SPLIT_WIDE_TOKENS && a.head_dim > 128 && spread_bytes(a, a.tokens, a.tiles) <= MOST_SPREAD_BYTES;
}

static i32 run_attention(Attention& a) {
  const bool countable = (i64)a.tokens * a.heads * a.tiles < INT32_MAX;
  if (spreads(a) && a.tiles > 2 * teams_of_direct(a.head_dim) && countable) {
    PSI_TRY(start(a, WAY_SPLIT));
    const bool few = (i64)a.tokens * a.heads * PSI_DIVIDE_UP(a.head_dim, FOLD_NARROW) <= 3 * (i64)device.multiprocessors;
    const i32 part = few ? FOLD_NARROW : a.head_dim <= 64 ? 64 : FOLD_WIDE;
    return launch("psi_attention", attention_fold, dim3((u32)a.heads, (u32)a.tokens, (u32)PSI_DIVIDE_UP(a.head_dim, part)), dim3(FOLD_THREADS), FOLD_SHARED, a, part);
  }
  if (a.tokens <= FEW_TOKENS) {
    a.block = a.tokens, a.run = a.tokens + 1;
    return start(a, WAY_DIRECT);
  }
  a.block = max(1, rows_of_runs(a.head_dim) / a.group);
  a.run = min(a.block, SHORTEST_RUN);
  if (a.run > 1) PSI_TRY(start(a, WAY_DIRECT));
  return start(a, WAY_RUNS);
}

static i32 check(const Attention& a, double scratch_bytes, double needed) {
  const char* where = "psi_attention";
  PSI_TRY(check_cache(where, a.tokens, a.kv_heads, a.head_dim, a.page_size, a.max_pages, a.cache_type));
  if (a.heads < 1 || a.heads % a.kv_heads || a.q_offset < 0 || a.q_offset + (i64)a.heads * a.head_dim > a.q_stride || a.window < 0)
    return fail(PSI_INVALID, "[%s] expected heads inside the rows and a multiple of kv_heads %d, got heads %d, stride %lld, window %d.", where, a.kv_heads, a.heads, (long long)a.q_stride, a.window);
  if (a.tokens > 0 && (!a.partial || !(scratch_bytes >= needed)))
    return fail(PSI_INVALID, "[%s] expected %.0f bytes of scratch, got %.0f.", where, needed, a.partial ? scratch_bytes : 0);
  return PSI_OK;
}

}  // namespace psi

PSI_API i32 psi_attention(void* y, const void* q, const void* k_cache, const void* v_cache, const void* page_table, const void* token_sequence, const void* token_position, const void* sinks, void* scratch, i32 tokens, i32 q_stride, i32 q_offset, i32 heads, i32 kv_heads, i32 head_dim, i32 page_size, i32 max_pages, i32 window, i32 cache_type, f32 scale, f32 softcap, f64 scratch_bytes) {
  using namespace psi;
  if (!y || !q || !k_cache || !v_cache || !page_table || !token_sequence || !token_position)
    return fail(PSI_INVALID, "[psi_attention] expected non-null pointers.");
  Attention a = {};
  a.y = (float*)y, a.q = (const float*)q, a.k_cache = (const u8*)k_cache, a.v_cache = (const u8*)v_cache;
  a.page_table = (const i32*)page_table, a.token_sequence = (const i32*)token_sequence, a.token_position = (const i32*)token_position;
  a.sinks = (const float*)sinks, a.partial = (float*)scratch;
  a.q_stride = q_stride, a.q_offset = q_offset, a.tokens = tokens, a.heads = heads, a.kv_heads = kv_heads, a.head_dim = head_dim;
  a.page_size = page_size, a.max_pages = max_pages, a.window = window, a.cache_type = cache_type;
  const double tiles = ceil((double)max_pages * page_size / ATTENTION_TILE);
  /* a window of w positions touches at most this many tiles */
  a.tiles = (i32)(window > 0 ? min(tiles, (double)((i64)window + ATTENTION_TILE - 2) / ATTENTION_TILE + 1) : tiles);
  PSI_TRY(check(a, scratch_bytes, max(spread_bytes(a, min(tokens, SPLIT_TOKENS), tiles), spreads(a) ? spread_bytes(a, tokens, a.tiles) : 0.0)));
  if (tokens == 0) return PSI_OK;
  a.page_bytes = cache_page_bytes(kv_heads, head_dim, page_size, cache_type);
  a.scales_at = cache_scales_at(kv_heads, head_dim, page_size, cache_type);
  a.group = heads / kv_heads;
  a.page_shift = -1;
  for (i32 shift = 0; shift < 27; shift++)
    if (page_size == 16 << shift) a.page_shift = shift;
  a.partial_sums = a.partial + (i64)(spreads(a) ? tokens : 0) * heads * a.tiles * head_dim;
  a.aligned = (uintptr_t)q % 16 == 0 && q_stride % 4 == 0 && q_offset % 4 == 0;
  const double log2e = 1.4426950408889634;
  a.factor = (float)(softcap > 0 ? 2 * log2e * scale / softcap : log2e * scale);
  a.cap = (float)(softcap > 0 ? log2e * softcap : 0);
  return run_attention(a);
}
