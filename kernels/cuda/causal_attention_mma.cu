/*
 * Attention of sequences over themselves in bf16 on tensor cores (mma.m16n8k16, f32 sums), scores never whole; the scheme of
 * FlashAttention-2 (arXiv:2307.08691), with dq made by a kernel of its own so that every sum has one writer and one order.
 *   forward   a block is 64 FRAGMENTS rows of one head, 4 warps of 16 FRAGMENTS rows; keys and values come in tiles of 64
 *   dk, dv    a block is 64 keys of one key head, 4 warps of 16; rows of all its heads come in tiles of 64
 *   dq        a block is 64 rows of one head, 4 warps of 16; keys and values come in tiles of 64
 * Tiles lie in shared memory with 16 bytes between rows, so that fragments load without conflicts, and come by asynchronous
 * copies while the one before is used. Heads of up to DIM elements; what lies beyond head_dim is zero.
 */
#include "causal_attention_tile.cuh"

namespace psi {

constexpr int FLASH_WARPS = 4, FLASH_THREADS = 32 * FLASH_WARPS;

/* Tile rows of `DIM` elements of one head, from device memory. */
template <int DIM>
struct HeadTile {
  static constexpr int PITCH = DIM + 8, ELEMENTS = TILE * PITCH;
  /* rows row0 ... of a sequence, zeros past `length`; head_dim in groups of 8 where `fast` */
  static __device__ __forceinline__ void copy(u16* tile, const u16* from, i64 pitch, i32 row0, i32 rows, i32 length, i32 head_dim, bool fast) {
    for (i32 i = threadIdx.x; i < rows * (DIM / 8); i += FLASH_THREADS) {
      const i32 r = i / (DIM / 8), e = i % (DIM / 8) * 8;
      const bool there = row0 + r < length && e < head_dim;
      const u16* source = from + (there ? (row0 + r) * pitch + e : 0);
      u16* to = tile + r * PITCH + e;
      if (fast) copy_async16(to, source, there);
      else
        for (int x = 0; x < 8; x++) to[x] = there && e + x < head_dim ? source[x] : (u16)0;
    }
  }
  /* A fragment: rows row ..., elements 16 step ... */
  static __device__ __forceinline__ void a(u32* f, const u16* tile, int row, int step, int lane) {
    load_matrix_x4(f, tile + (row + lane / 8 % 2 * 8 + lane % 8) * PITCH + step * 16 + lane / 16 * 8);
  }
  /* B fragments of two columns of fragments: its columns are rows row ... row + 15, its ks elements 16 step ... */
  static __device__ __forceinline__ void b(u32* f, const u16* tile, int row, int step, int lane) {
    load_matrix_x4(f, tile + (row + lane / 16 * 8 + lane % 8) * PITCH + step * 16 + lane / 8 % 2 * 8);
  }
  /* B fragments whose ks are rows 16 step ..., and columns elements element ... element + 15 */
  static __device__ __forceinline__ void b_turned(u32* f, const u16* tile, int step, int element, int lane) {
    load_matrix_x4_transposed(f, tile + (step * 16 + lane / 8 % 2 * 8 + lane % 8) * PITCH + element + lane / 16 * 8);
  }
};

/* acc [DIM / 8] += s (16 x 64) tile (64 x DIM) */
template <int DIM>
__device__ __forceinline__ void add_product(float (*acc)[4], const float (*s)[4], const u16* tile, int lane) {
#pragma unroll
  for (int step = 0; step < TILE / 16; step++) {
    u32 a[4];
    as_fragment(a, s, step);
#pragma unroll
    for (int j = 0; j < DIM / 16; j++) {
      u32 b[4];
      HeadTile<DIM>::b_turned(b, tile, step, 16 * j, lane);
      mma_bf16(acc[2 * j], a, b);
      mma_bf16(acc[2 * j + 1], a, b + 2);
    }
  }
}

/* s (16 x 64) = a (16 x DIM) tile^T (DIM x 64) */
template <int DIM>
__device__ __forceinline__ void scores_of(float (*s)[4], const u32 (*a)[4], const u16* tile, int lane) {
#pragma unroll
  for (int j = 0; j < TILE / 8; j++) s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0;
#pragma unroll
  for (int step = 0; step < DIM / 16; step++)
#pragma unroll
    for (int j = 0; j < TILE / 16; j++) {
      u32 b[4];
      HeadTile<DIM>::b(b, tile, 16 * j, step, lane);
      mma_bf16(s[2 * j], a[step], b);
      mma_bf16(s[2 * j + 1], a[step], b + 2);
    }
}

/* Elements e and e + 1 of a head at `at`. */
__device__ __forceinline__ void store_pair(u16* at, i32 e, i32 head_dim, u32 pair) {
  if (e + 1 < head_dim && head_dim % 2 == 0) *(u32*)at = pair;
  else {
    if (e < head_dim) at[0] = (u16)(pair & 0xffff);
    if (e + 1 < head_dim) at[1] = (u16)(pair >> 16);
  }
}

/* Rows of a result from a warp's 16 x DIM sums, each row times its factor. */
template <int DIM>
__device__ __forceinline__ void store_rows(const Place& to, i64 pitch, i32 row0, i32 length, i32 head_dim, const float (*acc)[4], const float* factor, int lane) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const i32 row = row0 + lane / 4 + 8 * half;
    if (row >= length) continue;
#pragma unroll
    for (int j = 0; j < DIM / 8; j++) {
      const i32 e = 8 * j + lane % 4 * 2;
      const float low = acc[j][2 * half] * factor[half], high = acc[j][2 * half + 1] * factor[half];
      const i64 at = to.from + row * pitch + e;
      if (to.wide) {
        if (e < head_dim) ((float*)to.p)[at] = low;
        if (e + 1 < head_dim) ((float*)to.p)[at + 1] = high;
        continue;
      }
      const u32 pair = pack_bf16(low, high);
      store_pair((u16*)to.p + at, e, head_dim, pair);
      if (to.rest) store_pair((u16*)to.rest + at, e, head_dim, pack_rests(low, high, pair));
    }
  }
}

template <int DIM, int FRAGMENTS>
__global__ void __launch_bounds__(FLASH_THREADS, 2) causal_forward_kernel(const __grid_constant__ CausalAttention c, bool fast) {
  using Tile = HeadTile<DIM>;
  constexpr int ROWS = TILE * FRAGMENTS;
  PSI_DYNAMIC_SHARED(shared);
  __shared__ SeenRange<FLASH_WARPS> range;
  u16 *tile_q = (u16*)shared, *tiles = tile_q + FRAGMENTS * Tile::ELEMENTS; /* [2][keys, values] */
  let_next_start();
  wait_for_inputs();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const i32 h = blockIdx.y, s = blockIdx.z, row0 = (i32)(gridDim.x - 1 - blockIdx.x) * ROWS; /* the longest first */
  const i64 base = (i64)s * c.length, wide = c.wide(), narrow = c.narrow(), kv = (i64)(h / (c.heads / c.kv_heads)) * c.head_dim;
  const u16 *keys = (const u16*)c.k + base * narrow + kv, *values = (const u16*)c.v + base * narrow + kv;
  i32 least, most_seen;
  seen_range(c, s, row0, ROWS, range, least, most_seen);
  const i32 begin = least / TILE * TILE, end = min(row0 + ROWS, c.length);
  const auto fetch = [&](i32 k0, int slot) {
    Tile::copy(tiles + 2 * slot * Tile::ELEMENTS, keys, narrow, k0, TILE, c.length, c.head_dim, fast);
    Tile::copy(tiles + (2 * slot + 1) * Tile::ELEMENTS, values, narrow, k0, TILE, c.length, c.head_dim, fast);
    copy_async_commit();
  };
  Tile::copy(tile_q, (const u16*)c.q + base * wide + (i64)h * c.head_dim, wide, row0, ROWS, c.length, c.head_dim, fast);
  fetch(begin, 0);
  const i32 own0 = row0 + warp * 16 * FRAGMENTS + lane / 4; /* + 16 f + 8 half */
  float most[FRAGMENTS][2], sum[FRAGMENTS][2], acc[FRAGMENTS][DIM / 8][4] = {};
  i32 seen[FRAGMENTS][2];
#pragma unroll
  for (int f = 0; f < FRAGMENTS; f++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const i32 row = own0 + 16 * f + 8 * half;
      most[f][half] = c.sinks ? c.sinks[h] * LOG2_E : -INFINITY;
      sum[f][half] = c.sinks && lane % 4 == 0 ? 1.0f : 0.0f; /* summed over the quad in the end */
      seen[f][half] = c.seen_from(s, min(row, c.length - 1));
    }
  int slot = 0;
  for (i32 k0 = begin; k0 < end; k0 += TILE, slot ^= 1) {
    copy_async_wait<0>();
    __syncthreads();
    if (k0 + TILE < end) fetch(k0 + TILE, slot ^ 1);
    const u16 *tile_k = tiles + 2 * slot * Tile::ELEMENTS, *tile_v = tile_k + Tile::ELEMENTS;
    const bool whole = k0 >= most_seen && k0 + TILE - 1 <= row0;
#pragma unroll
    for (int f = 0; f < FRAGMENTS; f++) {
      float z[TILE / 8][4];
      {
        u32 q[DIM / 16][4];
#pragma unroll
        for (int step = 0; step < DIM / 16; step++) Tile::a(q[step], tile_q, (warp * FRAGMENTS + f) * 16, step, lane);
        scores_of<DIM>(z, q, tile_k, lane);
      }
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const i32 row = own0 + 16 * f + 8 * half;
        float high = most[f][half];
#pragma unroll
        for (int j = 0; j < TILE / 8; j++)
#pragma unroll
          for (int i = 0; i < 2; i++) {
            float& v = z[j][2 * half + i];
            const i32 key = k0 + 8 * j + lane % 4 * 2 + i;
            v = c.score(v) * LOG2_E;
            if (!whole && (key > row || key < seen[f][half])) v = -INFINITY;
            high = fmaxf(high, v);
          }
        high = fmaxf(high, __shfl_xor_sync(~0u, high, 1));
        high = fmaxf(high, __shfl_xor_sync(~0u, high, 2));
        const float reference = high == -INFINITY ? 0.0f : high, shrink = exp2_fast(most[f][half] - reference);
        most[f][half] = high;
        float part = 0;
#pragma unroll
        for (int j = 0; j < TILE / 8; j++)
#pragma unroll
          for (int i = 0; i < 2; i++) {
            float& v = z[j][2 * half + i];
            v = exp2_fast(v - reference);
            part += v;
          }
        sum[f][half] = sum[f][half] * shrink + part;
#pragma unroll
        for (int j = 0; j < DIM / 8; j++) acc[f][j][2 * half] *= shrink, acc[f][j][2 * half + 1] *= shrink;
      }
      add_product<DIM>(acc[f], z, tile_v, lane);
    }
  }
#pragma unroll
  for (int f = 0; f < FRAGMENTS; f++) {
    float factor[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float total = sum[f][half];
      total += __shfl_xor_sync(~0u, total, 1);
      total += __shfl_xor_sync(~0u, total, 2);
      factor[half] = 1.0f / total;
      const i32 row = own0 + 16 * f + 8 * half;
      if (row < c.length && lane % 4 == 0) c.lse[(base + row) * c.heads + h] = most[f][half] * LN_2 + logf(total);
    }
    store_rows<DIM>({c.y, base * wide + (i64)h * c.head_dim, false, c.rest}, wide, row0 + (warp * FRAGMENTS + f) * 16, c.length, c.head_dim, acc[f], factor, lane);
  }
}

/* p and ds of one score, from its dot product, dy.v, and the row's facts. */
__device__ __forceinline__ void probability(const CausalAttention& c, float dot, float dp, float lse2, float delta, bool seen, float& p, float& ds) {
  const float s = c.score(dot);
  p = seen ? exp2_fast(s * LOG2_E - lse2) : 0.0f;
  ds = p * (dp - delta) * c.slope(s);
}

/* What a tile of rows brings beside its elements. */
struct RowFacts {
  float2 facts[TILE]; /* as CausalAttention's */
  i32 seen[TILE];
};

template <int DIM>
__global__ void __launch_bounds__(FLASH_THREADS, 2) causal_keys_kernel(const __grid_constant__ CausalAttention c, bool fast) {
  using Tile = HeadTile<DIM>;
  PSI_DYNAMIC_SHARED(shared);
  __shared__ RowFacts facts[2];
  u16 *tile_k = (u16*)shared, *tile_v = tile_k + Tile::ELEMENTS, *tiles = tile_v + Tile::ELEMENTS; /* [2][q, dy] */
  let_next_start();
  wait_for_inputs();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const i32 kv = blockIdx.y, s = blockIdx.z, k0 = blockIdx.x * TILE, group = c.heads / c.kv_heads;
  const i64 base = (i64)s * c.length, wide = c.wide(), narrow = c.narrow(), of = base * narrow + (i64)kv * c.head_dim;
  /* rows that may see these keys, for each head of the group */
  const i32 end = c.window > 0 ? min(c.length, k0 + TILE - 1 + c.window) : c.length, per_head = PSI_DIVIDE_UP(end - k0, TILE), count = per_head * group;
  const auto fetch = [&](i32 n, int slot) {
    const i32 h = kv * group + n / per_head, row0 = k0 + n % per_head * TILE;
    const i64 at = base * wide + (i64)h * c.head_dim;
    Tile::copy(tiles + 2 * slot * Tile::ELEMENTS, (const u16*)c.q + at, wide, row0, TILE, c.length, c.head_dim, fast);
    Tile::copy(tiles + (2 * slot + 1) * Tile::ELEMENTS, (const u16*)c.dy + at, wide, row0, TILE, c.length, c.head_dim, fast);
    copy_async_commit();
    if (threadIdx.x < TILE) {
      const i32 row = row0 + threadIdx.x;
      const bool there = row < c.length;
      facts[slot].facts[threadIdx.x] = c.facts_of(s, h)[row]; /* they fill whole tiles */
      facts[slot].seen[threadIdx.x] = there ? c.seen_from(s, row) : c.length;
    }
  };
  Tile::copy(tile_k, (const u16*)c.k + of, narrow, k0, TILE, c.length, c.head_dim, fast);
  Tile::copy(tile_v, (const u16*)c.v + of, narrow, k0, TILE, c.length, c.head_dim, fast);
  fetch(0, 0);
  constexpr bool KEEP = DIM <= 64; /* the block's own fragments stay in registers */
  u32 own_k[DIM / 16][4], own_v[DIM / 16][4];
  float dk[DIM / 8][4] = {}, dv[DIM / 8][4] = {};
  const i32 key0 = k0 + warp * 16 + lane / 4;
  for (i32 n = 0; n < count; n++) {
    const int slot = n % 2;
    copy_async_wait<0>();
    __syncthreads();
    if (n + 1 < count) fetch(n + 1, slot ^ 1);
    if (!KEEP || n == 0)
#pragma unroll
      for (int step = 0; step < DIM / 16; step++) Tile::a(own_k[step], tile_k, warp * 16, step, lane);
    const u16 *tile_q = tiles + 2 * slot * Tile::ELEMENTS, *tile_dy = tile_q + Tile::ELEMENTS;
    const i32 row0 = k0 + n % per_head * TILE;
    float p[TILE / 8][4], ds[TILE / 8][4];
    scores_of<DIM>(p, own_k, tile_q, lane);
    if (!KEEP || n == 0)
#pragma unroll
      for (int step = 0; step < DIM / 16; step++) Tile::a(own_v[step], tile_v, warp * 16, step, lane);
    scores_of<DIM>(ds, own_v, tile_dy, lane);
    const RowFacts& f = facts[slot];
#pragma unroll
    for (int j = 0; j < TILE / 8; j++)
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const i32 at = 8 * j + lane % 4 * 2 + i, row = row0 + at, from = f.seen[at];
        const float lse2 = f.facts[at].x, delta = f.facts[at].y;
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const i32 key = key0 + 8 * half;
          probability(c, p[j][2 * half + i], ds[j][2 * half + i], lse2, delta, key <= row && key >= from, p[j][2 * half + i], ds[j][2 * half + i]);
        }
      }
    add_product<DIM>(dv, p, tile_dy, lane);
    add_product<DIM>(dk, ds, tile_q, lane);
  }
  const float one[2] = {1.0f, 1.0f};
  store_rows<DIM>({c.dk, of, c.wide_gradients, nullptr}, narrow, k0 + warp * 16, c.length, c.head_dim, dk, one, lane);
  store_rows<DIM>({c.dv, of, false, nullptr}, narrow, k0 + warp * 16, c.length, c.head_dim, dv, one, lane);
}

template <int DIM>
__global__ void __launch_bounds__(FLASH_THREADS, 2) causal_rows_kernel(const __grid_constant__ CausalAttention c, bool fast) {
  using Tile = HeadTile<DIM>;
  PSI_DYNAMIC_SHARED(shared);
  __shared__ SeenRange<FLASH_WARPS> range;
  u16 *tile_q = (u16*)shared, *tile_dy = tile_q + Tile::ELEMENTS, *tiles = tile_dy + Tile::ELEMENTS; /* [2][keys, values] */
  let_next_start();
  wait_for_inputs();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const i32 h = blockIdx.y, s = blockIdx.z, row0 = (i32)(gridDim.x - 1 - blockIdx.x) * TILE;
  const i64 base = (i64)s * c.length, wide = c.wide(), narrow = c.narrow(), kv = (i64)(h / (c.heads / c.kv_heads)) * c.head_dim, of = base * wide + (i64)h * c.head_dim;
  i32 least, most_seen;
  seen_range(c, s, row0, TILE, range, least, most_seen);
  const i32 begin = least / TILE * TILE, end = min(row0 + TILE, c.length);
  const auto fetch = [&](i32 k0, int slot) {
    Tile::copy(tiles + 2 * slot * Tile::ELEMENTS, (const u16*)c.k + base * narrow + kv, narrow, k0, TILE, c.length, c.head_dim, fast);
    Tile::copy(tiles + (2 * slot + 1) * Tile::ELEMENTS, (const u16*)c.v + base * narrow + kv, narrow, k0, TILE, c.length, c.head_dim, fast);
    copy_async_commit();
  };
  Tile::copy(tile_q, (const u16*)c.q + of, wide, row0, TILE, c.length, c.head_dim, fast);
  Tile::copy(tile_dy, (const u16*)c.dy + of, wide, row0, TILE, c.length, c.head_dim, fast);
  fetch(begin, 0);
  float lse2[2], delta[2], dq[DIM / 8][4] = {};
  i32 seen[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const i32 row = min(row0 + warp * 16 + lane / 4 + 8 * half, c.length - 1);
    const float2 fact = c.facts_of(s, h)[row];
    lse2[half] = fact.x, delta[half] = fact.y, seen[half] = c.seen_from(s, row);
  }
  int slot = 0;
  for (i32 k0 = begin; k0 < end; k0 += TILE, slot ^= 1) {
    copy_async_wait<0>();
    __syncthreads();
    if (k0 + TILE < end) fetch(k0 + TILE, slot ^ 1);
    const u16 *tile_k = tiles + 2 * slot * Tile::ELEMENTS, *tile_v = tile_k + Tile::ELEMENTS;
    float p[TILE / 8][4], ds[TILE / 8][4];
    u32 own[DIM / 16][4];
#pragma unroll
    for (int step = 0; step < DIM / 16; step++) Tile::a(own[step], tile_q, warp * 16, step, lane);
    scores_of<DIM>(p, own, tile_k, lane);
#pragma unroll
    for (int step = 0; step < DIM / 16; step++) Tile::a(own[step], tile_dy, warp * 16, step, lane);
    scores_of<DIM>(ds, own, tile_v, lane);
#pragma unroll
    for (int j = 0; j < TILE / 8; j++)
#pragma unroll
      for (int half = 0; half < 2; half++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
          const i32 key = k0 + 8 * j + lane % 4 * 2 + i, row = row0 + warp * 16 + lane / 4 + 8 * half;
          probability(c, p[j][2 * half + i], ds[j][2 * half + i], lse2[half], delta[half], key <= row && key >= seen[half], p[j][2 * half + i], ds[j][2 * half + i]);
        }
    add_product<DIM>(dq, ds, tile_k, lane);
  }
  const float one[2] = {1.0f, 1.0f};
  store_rows<DIM>({c.dq, of, c.wide_gradients, nullptr}, wide, row0 + warp * 16, c.length, c.head_dim, dq, one, lane);
}

/* Heads in whole groups of 8 elements at aligned places come by asynchronous copies. */
static bool copies(const CausalAttention& c) {
  bool fast = c.head_dim % 8 == 0;
  for (const void* p : {c.q, c.k, c.v, c.dy}) fast = fast && (uintptr_t)p % 16 == 0;
  return fast;
}

template <int DIM, int FRAGMENTS>
static i32 forward(const CausalAttention& c) {
  const dim3 grid(PSI_DIVIDE_UP(c.length, TILE * FRAGMENTS), c.heads, c.sequences);
  const size_t bytes = (FRAGMENTS + 4) * HeadTile<DIM>::ELEMENTS * sizeof(u16);
  return launch("psi_causal_attention", causal_forward_kernel<DIM, FRAGMENTS>, grid, dim3(FLASH_THREADS), bytes, c, copies(c));
}
template <int DIM>
static i32 backward(const CausalAttention& c) {
  const unsigned tiles = PSI_DIVIDE_UP(c.length, TILE);
  const size_t bytes = 6 * HeadTile<DIM>::ELEMENTS * sizeof(u16);
  PSI_TRY(launch("psi_causal_attention_grad", causal_keys_kernel<DIM>, dim3(tiles, c.kv_heads, c.sequences), dim3(FLASH_THREADS), bytes, c, copies(c)));
  return launch("psi_causal_attention_grad", causal_rows_kernel<DIM>, dim3(tiles, c.heads, c.sequences), dim3(FLASH_THREADS), bytes, c, copies(c));
}

i32 causal_forward_half(const CausalAttention& c) {
  return c.head_dim <= 32 ? forward<32, 2>(c) : c.head_dim <= 64 ? forward<64, 2>(c) : forward<128, 1>(c);
}
i32 causal_backward_half(const CausalAttention& c) {
  return c.head_dim <= 32 ? backward<32>(c) : c.head_dim <= 64 ? backward<64>(c) : backward<128>(c);
}

}  // namespace psi
