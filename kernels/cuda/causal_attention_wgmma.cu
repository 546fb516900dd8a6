/*
 * Attention of sequences over themselves in bf16 on Hopper, heads of 64 elements, without soft-cap; the scheme of
 * causal_attention_mma.cu by wgmma, f32 sums in registers, tiles of 64 rows or keys brought by tensor copies into a ring of
 * stages (the ideas of FlashAttention-3, arXiv:2407.08608, but for its specialised warps: several blocks of a processor
 * overlap instead).
 *   forward  a block is 128 rows of one head, two warpgroups of 64; the product with values is under way while the next
 *            tile's softmax is made
 *   dk, dv   a block is a warpgroup: 64 keys of one key head; rows of all its heads come in tiles
 *   dq       a block is a warpgroup: 64 rows of one head; keys and values come in tiles
 */
#include "causal_attention_tile.cuh"
#include "quad.cuh"
#include "tensor_copy.h"

namespace psi {

constexpr int HEAD = 64, WARPGROUP = 128, FORWARD_GROUPS = 2, FORWARD_STAGES = 4, KEYS_STAGES = 3, ROWS_STAGES = 2;
constexpr int FORWARD_ROWS = FORWARD_GROUPS * TILE, FORWARD_THREADS = FORWARD_GROUPS * WARPGROUP;
constexpr u32 BLOCK = TILE * BOX_LINE; /* bytes of a tile */
[[maybe_unused]] constexpr u32 K_STEP = 32, LINE_STEP = 16 * BOX_LINE; /* bytes of 16 ks in its lines, of 16 lines; used by sm_90a only */
constexpr u32 FACT_BYTES = TILE * sizeof(float2);

/* A ring of stages that one thread fills; STAGES pairs of arrivals in shared memory. */
template <int STAGES>
struct Ring {
  u64 *full, *empty;
  __device__ __forceinline__ void start(u32 readers) const {
    for (int s = 0; s < STAGES; s++) bulk_start(full + s), count_start(empty + s, readers);
  }
  /* Before use n of the ring is filled. */
  __device__ __forceinline__ void wait_empty(i32 n) const {
    if (n >= STAGES) bulk_wait(empty + n % STAGES, (n / STAGES - 1) & 1);
  }
  __device__ __forceinline__ void wait_full(i32 n) const { bulk_wait(full + n % STAGES, n / STAGES & 1); }
  __device__ __forceinline__ u64* arrival(i32 n) const { return full + n % STAGES; }
  __device__ __forceinline__ void release(i32 n) const { count_arrive(empty + n % STAGES); }
  /* Fills use n with a tile of each of two matrices, one behind the other; the caller copies `more` bytes besides. */
  __device__ __forceinline__ void fill(i32 n, u8* stages, const TensorMap* a, const TensorMap* b, i32 inner, i32 outer, i32 batch, u32 more = 0) const {
    u8* to = stages + n % STAGES * (2 * BLOCK);
    wait_empty(n);
    bulk_expect(arrival(n), 2 * BLOCK + more);
    tensor_copy(to, a, inner, outer, batch, arrival(n));
    tensor_copy(to + BLOCK, b, inner, outer, batch, arrival(n));
  }
};

/* A fragment of a warp's 16 rows from a tile in shared memory. */
__device__ __forceinline__ void tile_fragment(u32* f, const u8* tile, int warp, int step, int lane) {
  const int row = warp * 16 + lane / 8 % 2 * 8 + lane % 8, chunk = 2 * step + lane / 16;
  load_matrix_x4(f, tile + row * BOX_LINE + ((chunk ^ (row & 7)) << 4));
}

/* Rows of a result from a warp's 16 x 64 sums, each row times its factor. */
__device__ __forceinline__ void store_head(const Place& to, i64 pitch, i32 row0, i32 length, const float (&acc)[32], const float* factor, int lane) {
  const int t = lane % 4;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const i32 row = row0 + lane / 4 + 8 * half;
#pragma unroll
    for (int j = 0; j < 8; j += 4) {
      const i64 line0 = to.from + row * pitch, at = line0 + 8 * (j + t);
      u32 v[4], rests[4];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float low = acc[4 * (j + i) + 2 * half] * factor[half], high = acc[4 * (j + i) + 2 * half + 1] * factor[half];
        if (to.wide && row < length) *(float2*)((float*)to.p + line0 + 8 * (j + i) + 2 * t) = make_float2(low, high);
        v[i] = pack_bf16(low, high), rests[i] = pack_rests(low, high, v[i]);
      }
      if (to.wide) continue;
      const uint4 line = quad_transposed(v[0], v[1], v[2], v[3], t);
      if (row < length) *(uint4*)((u16*)to.p + at) = line;
      if (!to.rest) continue;
      const uint4 below = quad_transposed(rests[0], rests[1], rests[2], rests[3], t);
      if (row < length) *(uint4*)((u16*)to.rest + at) = below;
    }
  }
}

#if defined(PSI_WGMMA)
typedef const float (*Fragments)[4];

/* D (64 x 64) = A (fragments) tile^T */
__device__ __forceinline__ void product_held(float (&d)[32], const u32 (*a)[4], SharedSide tile) {
#pragma unroll
  for (int step = 0; step < HEAD / 16; step++) wgmma_held<true>(d, a[step], shared_side_at(tile, step * K_STEP), step > 0);
}
/* D (64 x 64) = A (a tile) B (a tile)^T */
__device__ __forceinline__ void product_shared(float (&d)[32], SharedSide a, SharedSide b) {
#pragma unroll
  for (int step = 0; step < HEAD / 16; step++) wgmma_shared<true, true>(d, shared_side_at(a, step * K_STEP), shared_side_at(b, step * K_STEP), step > 0);
}
/* D (64 x 64) += A (64 x 64, fragments) tile */
__device__ __forceinline__ void add_product(float (&d)[32], const u32 (*a)[4], SharedSide tile) {
#pragma unroll
  for (int step = 0; step < TILE / 16; step++) wgmma_held<false>(d, a[step], shared_side_at(tile, step * LINE_STEP), true);
}
__device__ __forceinline__ void as_fragments(u32 (*a)[4], const float (&s)[32]) {
#pragma unroll
  for (int step = 0; step < TILE / 16; step++) as_fragment(a[step], (Fragments)s, step);
}
#endif

__global__ void __launch_bounds__(FORWARD_THREADS, 2)
    causal_forward_wgmma_kernel(const __grid_constant__ TensorMap map_q, const __grid_constant__ TensorMap map_k, const __grid_constant__ TensorMap map_v, const __grid_constant__ CausalAttention c) {
#if defined(PSI_WGMMA)
  PSI_DYNAMIC_SHARED(shared); /* q, then stages of keys and values, arrivals, ranges */
  u8* stages = shared + FORWARD_GROUPS * BLOCK;
  u64* arrivals = (u64*)(stages + 2 * FORWARD_STAGES * BLOCK);
  const Ring<FORWARD_STAGES> ring = {arrivals, arrivals + FORWARD_STAGES};
  u64* arrived_q = arrivals + 2 * FORWARD_STAGES;
  auto& range = *(SeenRange<FORWARD_THREADS / 32>*)(arrived_q + 1);
  let_next_start();
  if (threadIdx.x == 0) {
    prefetch_map(&map_q), prefetch_map(&map_k), prefetch_map(&map_v);
    ring.start(FORWARD_GROUPS);
    bulk_start(arrived_q);
  }
  wait_for_inputs();
  __syncthreads();
  const i32 h = blockIdx.x % c.heads, s = blockIdx.x / c.heads, row0 = (i32)(gridDim.y - 1 - blockIdx.y) * FORWARD_ROWS; /* the longest first */
  i32 least, most_seen;
  seen_range(c, s, row0, FORWARD_ROWS, range, least, most_seen);
  const i32 begin = least / TILE * TILE, tiles = PSI_DIVIDE_UP(min(row0 + FORWARD_ROWS, c.length) - begin, TILE), kv = h / (c.heads / c.kv_heads) * HEAD;
  const auto fetch = [&](i32 n) { ring.fill(n, stages, &map_k, &map_v, kv, begin + n * TILE, s); };
  if (threadIdx.x == 0) {
    bulk_expect(arrived_q, FORWARD_GROUPS * BLOCK);
    tensor_copy(shared, &map_q, h * HEAD, row0, s, arrived_q);
    for (i32 n = 0; n < min(tiles, FORWARD_STAGES - 1); n++) fetch(n);
  }
  __syncwarp();
  const int group = threadIdx.x / WARPGROUP, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  const bool speaks = threadIdx.x % WARPGROUP == 0;
  const i32 group0 = row0 + group * TILE, own0 = group0 + warp * 16 + lane / 4; /* + 8 half */
  const float to_log2 = c.scale * LOG2_E;
  float most[2], sum[2], z[32], acc[32] = {};
  i32 seen[2];
  u32 q[HEAD / 16][4], p[TILE / 16][4];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    most[half] = c.sinks ? c.sinks[h] * LOG2_E : -INFINITY;
    sum[half] = c.sinks && lane % 4 == 0 ? 1.0f : 0.0f; /* summed over the quad in the end */
    seen[half] = c.seen_from(s, min(own0 + 8 * half, c.length - 1));
  }
  bulk_wait(arrived_q);
#pragma unroll
  for (int step = 0; step < HEAD / 16; step++) tile_fragment(q[step], shared + group * BLOCK, warp, step, lane);
  const SharedSide first = shared_side(stages, ONE_BLOCK);
  const auto score = [&](i32 n) {
    ring.wait_full(n);
    wgmma_fence();
    product_held(z, q, shared_side_at(first, n % FORWARD_STAGES * (2 * BLOCK)));
    wgmma_commit();
  };
  const auto weigh = [&](i32 n) {
    wgmma_fence();
    add_product(acc, p, shared_side_at(first, n % FORWARD_STAGES * (2 * BLOCK) + BLOCK));
    wgmma_commit();
  };
  /* z becomes the weights of tile n, and shrink what the sums before it are worth beside them */
  const auto soften = [&](i32 n, float* shrink) {
    const i32 k0 = begin + n * TILE;
    const bool whole = k0 >= most_seen && k0 + TILE - 1 <= group0;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const i32 row = own0 + 8 * half;
      float high = -INFINITY;
#pragma unroll
      for (int j = 0; j < TILE / 8; j++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
          float& v = z[4 * j + 2 * half + i];
          const i32 key = k0 + 8 * j + lane % 4 * 2 + i;
          if (!whole && (key > row || key < seen[half])) v = -INFINITY;
          high = fmaxf(high, v);
        }
      high = fmaxf(high, __shfl_xor_sync(~0u, high, 1));
      high = fmaxf(high, __shfl_xor_sync(~0u, high, 2));
      high = fmaxf(most[half], high * to_log2);
      const float reference = high == -INFINITY ? 0.0f : high;
      shrink[half] = exp2_fast(most[half] - reference);
      most[half] = high;
      float part = 0;
#pragma unroll
      for (int j = 0; j < TILE / 8; j++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
          float& v = z[4 * j + 2 * half + i];
          v = exp2_fast(fmaf(v, to_log2, -reference));
          part += v;
        }
      sum[half] = sum[half] * shrink[half] + part;
    }
  };
  /* the product of tile n - 1 is over: its stage is filled again, its sums shrink */
  const auto settle = [&](i32 n, const float* shrink) {
    wgmma_done<0>(acc);
    if (n > 0 && speaks) ring.release(n - 1);
    if (threadIdx.x == 0 && n + FORWARD_STAGES - 1 < tiles) fetch(n + FORWARD_STAGES - 1);
    __syncwarp();
#pragma unroll
    for (int j = 0; j < HEAD / 8; j++)
#pragma unroll
      for (int half = 0; half < 2; half++) acc[4 * j + 2 * half] *= shrink[half], acc[4 * j + 2 * half + 1] *= shrink[half];
    as_fragments(p, z);
  };
  const i32 own_tiles = min(tiles, PSI_DIVIDE_UP(group0 + TILE - begin, TILE)); /* the last is above the first group's rows: nobody waits for its stage */
  float shrink[2];
  score(0);
  wgmma_done<0>(z);
  for (i32 n = 0; n + 1 < own_tiles; n++) {
    soften(n, shrink);
    settle(n, shrink);
    score(n + 1);
    weigh(n);
    wgmma_done<1>(z);
  }
  soften(own_tiles - 1, shrink);
  settle(own_tiles - 1, shrink);
  weigh(own_tiles - 1);
  wgmma_done<0>(acc);
  float factor[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float total = sum[half];
    total += __shfl_xor_sync(~0u, total, 1);
    total += __shfl_xor_sync(~0u, total, 2);
    factor[half] = 1.0f / total;
    const i32 row = own0 + 8 * half;
    if (row < c.length && lane % 4 == 0) c.lse[((i64)s * c.length + row) * c.heads + h] = most[half] * LN_2 + logf(total);
  }
  store_head({c.y, (i64)s * c.length * c.wide() + (i64)h * HEAD, false, c.rest}, c.wide(), group0 + warp * 16, c.length, acc, factor, lane);
#endif
}

__global__ void __launch_bounds__(WARPGROUP, 3)
    causal_keys_wgmma_kernel(const __grid_constant__ TensorMap map_q, const __grid_constant__ TensorMap map_dy, const __grid_constant__ TensorMap map_k, const __grid_constant__ TensorMap map_v, const __grid_constant__ CausalAttention c) {
#if defined(PSI_WGMMA)
  PSI_DYNAMIC_SHARED(shared); /* keys, values, then stages of q and dy, facts of the stages, arrivals */
  u8 *stages = shared + 2 * BLOCK, *facts = stages + 2 * KEYS_STAGES * BLOCK;
  u64* arrivals = (u64*)(facts + KEYS_STAGES * FACT_BYTES);
  const Ring<KEYS_STAGES> ring = {arrivals, arrivals + KEYS_STAGES};
  u64* arrived = arrivals + 2 * KEYS_STAGES;
  let_next_start();
  if (threadIdx.x == 0) {
    prefetch_map(&map_q), prefetch_map(&map_dy), prefetch_map(&map_k), prefetch_map(&map_v);
    ring.start(4);
    bulk_start(arrived);
  }
  wait_for_inputs();
  __syncthreads();
  const i32 kv = blockIdx.x % c.kv_heads, s = blockIdx.x / c.kv_heads, k0 = blockIdx.y * TILE, group = c.heads / c.kv_heads;
  /* rows that may see these keys, for each head of the group */
  const i32 end = c.window > 0 ? min(c.length, k0 + TILE - 1 + c.window) : c.length, per_head = PSI_DIVIDE_UP(end - k0, TILE), count = per_head * group;
  const auto fetch = [&](i32 n) {
    const i32 h = kv * group + n / per_head, row0 = k0 + n % per_head * TILE;
    ring.fill(n, stages, &map_q, &map_dy, h * HEAD, row0, s, FACT_BYTES);
    bulk_copy(facts + n % KEYS_STAGES * FACT_BYTES, c.facts_of(s, h) + row0, FACT_BYTES, ring.arrival(n));
  };
  if (threadIdx.x == 0) {
    bulk_expect(arrived, 2 * BLOCK);
    tensor_copy(shared, &map_k, kv * HEAD, k0, s, arrived);
    tensor_copy(shared + BLOCK, &map_v, kv * HEAD, k0, s, arrived);
    for (i32 n = 0; n < min(count, KEYS_STAGES - 1); n++) fetch(n);
  }
  __syncwarp();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const i32 key0 = k0 + warp * 16 + lane / 4;
  const float to_log2 = c.scale * LOG2_E;
  const SharedSide keys = shared_side(shared, ONE_BLOCK), values = shared_side_at(keys, BLOCK), first = shared_side_at(keys, 2 * BLOCK);
  float dk[32] = {}, dv[32] = {};
  bulk_wait(arrived);
  for (i32 n = 0; n < count; n++) {
    if (threadIdx.x == 0 && n + KEYS_STAGES - 1 < count) fetch(n + KEYS_STAGES - 1);
    __syncwarp();
    const int stage = n % KEYS_STAGES;
    const SharedSide q = shared_side_at(first, stage * (2 * BLOCK)), dy = shared_side_at(q, BLOCK);
    const float2* fact = (const float2*)(facts + stage * FACT_BYTES);
    const i32 row0 = k0 + n % per_head * TILE;
    float z[32], ds[32];
    ring.wait_full(n);
    wgmma_fence();
    product_shared(z, keys, q);
    product_shared(ds, values, dy);
    wgmma_commit();
    wgmma_done<0>(z);
    wgmma_done<0>(ds);
    bool whole = row0 > k0; /* all rows see all keys */
    if (whole && (c.first || c.window > 0)) {
      i32 from = 0;
#pragma unroll
      for (int i = 0; i < TILE; i += 32)
        if (row0 + i + lane < c.length) from = max(from, c.seen_from(s, row0 + i + lane));
      whole = __all_sync(~0u, from <= k0);
    }
#pragma unroll
    for (int j = 0; j < TILE / 8; j++) {
      const float4 two = *(const float4*)(fact + 8 * j + lane % 4 * 2); /* of rows that are neighbours */
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const float lse2 = i ? two.z : two.x, delta = i ? two.w : two.y;
        const i32 row = row0 + 8 * j + lane % 4 * 2 + i, from = whole || row >= c.length ? 0 : c.seen_from(s, row);
#pragma unroll
        for (int half = 0; half < 2; half++) {
          float &p = z[4 * j + 2 * half + i], &d = ds[4 * j + 2 * half + i];
          const i32 key = key0 + 8 * half;
          p = whole || (key <= row && key >= from) ? exp2_fast(fmaf(p, to_log2, -lse2)) : 0.0f;
          d = p * (d - delta);
        }
      }
    }
    u32 a[TILE / 16][4], b[TILE / 16][4];
    as_fragments(a, z);
    as_fragments(b, ds);
    wgmma_fence();
    add_product(dv, a, dy);
    add_product(dk, b, q);
    wgmma_commit();
    wgmma_done<0>(dv);
    wgmma_done<0>(dk);
    if (lane == 0) ring.release(n);
  }
  const float one[2] = {1.0f, 1.0f}, scale[2] = {c.scale, c.scale};
  const i64 of = (i64)s * c.length * c.narrow() + (i64)kv * HEAD;
  store_head({c.dk, of, c.wide_gradients, nullptr}, c.narrow(), k0 + warp * 16, c.length, dk, scale, lane);
  store_head({c.dv, of, false, nullptr}, c.narrow(), k0 + warp * 16, c.length, dv, one, lane);
#endif
}

__global__ void __launch_bounds__(WARPGROUP, 4)
    causal_rows_wgmma_kernel(const __grid_constant__ TensorMap map_q, const __grid_constant__ TensorMap map_dy, const __grid_constant__ TensorMap map_k, const __grid_constant__ TensorMap map_v, const __grid_constant__ CausalAttention c) {
#if defined(PSI_WGMMA)
  PSI_DYNAMIC_SHARED(shared); /* q, dy, then stages of keys and values, arrivals, ranges */
  u8* stages = shared + 2 * BLOCK;
  u64* arrivals = (u64*)(stages + 2 * ROWS_STAGES * BLOCK);
  const Ring<ROWS_STAGES> ring = {arrivals, arrivals + ROWS_STAGES};
  u64* arrived = arrivals + 2 * ROWS_STAGES;
  auto& range = *(SeenRange<WARPGROUP / 32>*)(arrived + 1);
  let_next_start();
  if (threadIdx.x == 0) {
    prefetch_map(&map_q), prefetch_map(&map_dy), prefetch_map(&map_k), prefetch_map(&map_v);
    ring.start(4);
    bulk_start(arrived);
  }
  wait_for_inputs();
  __syncthreads();
  const i32 h = blockIdx.x % c.heads, s = blockIdx.x / c.heads, row0 = (i32)(gridDim.y - 1 - blockIdx.y) * TILE;
  i32 least, most_seen;
  seen_range(c, s, row0, TILE, range, least, most_seen);
  const i32 begin = least / TILE * TILE, tiles = PSI_DIVIDE_UP(min(row0 + TILE, c.length) - begin, TILE), kv = h / (c.heads / c.kv_heads) * HEAD;
  const auto fetch = [&](i32 n) { ring.fill(n, stages, &map_k, &map_v, kv, begin + n * TILE, s); };
  if (threadIdx.x == 0) {
    bulk_expect(arrived, 2 * BLOCK);
    tensor_copy(shared, &map_q, h * HEAD, row0, s, arrived);
    tensor_copy(shared + BLOCK, &map_dy, h * HEAD, row0, s, arrived);
    for (i32 n = 0; n < min(tiles, ROWS_STAGES - 1); n++) fetch(n);
  }
  __syncwarp();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const i32 own0 = row0 + warp * 16 + lane / 4;
  const float to_log2 = c.scale * LOG2_E;
  float lse2[2], delta[2], dq[32] = {};
  i32 seen[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const float2 fact = c.facts_of(s, h)[own0 + 8 * half];
    lse2[half] = fact.x, delta[half] = fact.y, seen[half] = c.seen_from(s, min(own0 + 8 * half, c.length - 1));
  }
  const SharedSide q = shared_side(shared, ONE_BLOCK), dy = shared_side_at(q, BLOCK), first = shared_side_at(q, 2 * BLOCK);
  bulk_wait(arrived);
  for (i32 n = 0; n < tiles; n++) {
    if (threadIdx.x == 0 && n + ROWS_STAGES - 1 < tiles) fetch(n + ROWS_STAGES - 1);
    __syncwarp();
    const i32 k0 = begin + n * TILE;
    const SharedSide keys = shared_side_at(first, n % ROWS_STAGES * (2 * BLOCK));
    float z[32], ds[32];
    ring.wait_full(n);
    wgmma_fence();
    product_shared(z, q, keys);
    product_shared(ds, dy, shared_side_at(keys, BLOCK));
    wgmma_commit();
    wgmma_done<0>(z);
    wgmma_done<0>(ds);
    const bool whole = k0 >= most_seen && k0 < row0;
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
      for (int j = 0; j < TILE / 8; j++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
          float &p = z[4 * j + 2 * half + i], &d = ds[4 * j + 2 * half + i];
          const i32 key = k0 + 8 * j + lane % 4 * 2 + i, row = own0 + 8 * half;
          p = whole || (key <= row && key >= seen[half]) ? exp2_fast(fmaf(p, to_log2, -lse2[half])) : 0.0f;
          d = p * (d - delta[half]);
        }
    u32 a[TILE / 16][4];
    as_fragments(a, ds);
    wgmma_fence();
    add_product(dq, a, keys);
    wgmma_commit();
    wgmma_done<0>(dq);
    if (lane == 0) ring.release(n);
  }
  const float scale[2] = {c.scale, c.scale};
  store_head({c.dq, (i64)s * c.length * c.wide() + (i64)h * HEAD, c.wide_gradients, nullptr}, c.wide(), row0 + warp * 16, c.length, dq, scale, lane);
#endif
}

bool causal_fits_wgmma(const CausalAttention& c) {
  bool fits = device.compute == 90 && c.head_dim == HEAD && c.softcap == 0 && c.scale > 0 && (i64)c.sequences * c.heads < ((i64)1 << 31);
  for (const void* p : {c.q, c.k, c.v, (const void*)c.y, (const void*)c.rest, c.dy, (const void*)c.dq, (const void*)c.dk, (const void*)c.dv}) fits = fits && (uintptr_t)p % 16 == 0;
  return fits;
}

static i32 head_map(const char* op, TensorMap& map, const void* p, const CausalAttention& c, bool wide, i32 lines) {
  const i64 pitch = (i64)(wide ? c.heads : c.kv_heads) * HEAD;
  return make_tensor_map(op, map, p, pitch, c.length, c.sequences, pitch, pitch * c.length, lines);
}

i32 causal_forward_wgmma(const CausalAttention& c) {
  const char* op = "psi_causal_attention";
  if (c.sequences == 0) return PSI_OK;
  TensorMap q, k, v;
  PSI_TRY(head_map(op, q, c.q, c, true, FORWARD_ROWS));
  PSI_TRY(head_map(op, k, c.k, c, false, TILE));
  PSI_TRY(head_map(op, v, c.v, c, false, TILE));
  const size_t bytes = (FORWARD_GROUPS + 2 * FORWARD_STAGES) * BLOCK + (2 * FORWARD_STAGES + 1) * sizeof(u64) + sizeof(SeenRange<FORWARD_THREADS / 32>);
  return launch(op, causal_forward_wgmma_kernel, dim3(c.sequences * c.heads, PSI_DIVIDE_UP(c.length, FORWARD_ROWS)), dim3(FORWARD_THREADS), bytes, q, k, v, c);
}

i32 causal_backward_wgmma(const CausalAttention& c) {
  const char* op = "psi_causal_attention_grad";
  if (c.sequences == 0) return PSI_OK;
  TensorMap q, dy, k, v;
  PSI_TRY(head_map(op, q, c.q, c, true, TILE));
  PSI_TRY(head_map(op, dy, c.dy, c, true, TILE));
  PSI_TRY(head_map(op, k, c.k, c, false, TILE));
  PSI_TRY(head_map(op, v, c.v, c, false, TILE));
  const unsigned tiles = PSI_DIVIDE_UP(c.length, TILE);
  const auto bytes = [](int stages, size_t more) { return (2 + 2 * stages) * BLOCK + (2 * stages + 1) * sizeof(u64) + more; };
  PSI_TRY(launch(op, causal_keys_wgmma_kernel, dim3(c.sequences * c.kv_heads, tiles), dim3(WARPGROUP), bytes(KEYS_STAGES, KEYS_STAGES * FACT_BYTES), q, dy, k, v, c));
  return launch(op, causal_rows_wgmma_kernel, dim3(c.sequences * c.heads, tiles), dim3(WARPGROUP), bytes(ROWS_STAGES, sizeof(SeenRange<WARPGROUP / 32>)), q, dy, k, v, c);
}

}  // namespace psi
