/*
 * C (+)= A' B' (+ bias) for any transposition, size and mixture of f32 and bf16, and for rows grouped by expert (gemm.h).
 * With a bf16 side: mma.m16n8k16 on bf16, f32 sides rounded; a block of 8 warps makes 128 x 128 of C, its next 32 ks on
 * their way in registers while it multiplies. With two f32 sides: f32 throughout, a block makes 64 x 64, a thread 4 x 4.
 * An element's sum runs over k ascending, in one chain, whatever the tile: its bits depend on nothing else.
 */
#include "gemm.h"

namespace psi {

constexpr int ANY_SIDE = 128, ANY_K = 32, ANY_THREADS = 256;
constexpr int ANY_ROW = ANY_K + 8, ANY_LINE = ANY_SIDE + 8; /* bf16s between rows, or ks, in shared memory */
constexpr int ANY_TILE = ANY_SIDE * ANY_ROW > ANY_K * ANY_LINE ? ANY_SIDE * ANY_ROW : ANY_K * ANY_LINE;

/* The part of C that a block makes: rows [row, row_end) x ks [k, k_end) of matrix `matrix`. */
struct GemmPart {
  i64 row, row_end, k, k_end, matrix;
};

/* Block y is a tile of rows; with experts their tiles come one after the other. False: there is none for this block. */
__device__ __forceinline__ bool find_part(const Gemm& g, i32 side, GemmPart& p) {
  p = {(i64)blockIdx.y * side, g.m, 0, g.k, blockIdx.z};
  if (!g.starts) return true;
  if (g.mode == 2) {
    p.k = g.starts[blockIdx.z], p.k_end = g.starts[blockIdx.z + 1];
    return p.k < p.k_end; /* an expert without rows leaves its place alone */
  }
  i64 tile = blockIdx.y;
  for (i32 e = 0; e < g.experts; e++) {
    const i64 from = g.starts[e], to = g.starts[e + 1], tiles = PSI_DIVIDE_UP(to - from, side);
    if (tile < tiles) {
      p.row = from + tile * side, p.row_end = to, p.matrix = e;
      return true;
    }
    tile -= tiles;
  }
  return false;
}

/* 16 elements along the side's lying direction as bf16s, zeros past `valid` of them. */
__device__ __forceinline__ void load16(const GemmSide& s, i64 at, i64 valid, u32* out) {
  if (s.fast && valid >= 16) {
    if (s.half) {
      const uint4 a = *(const uint4*)((const u16*)s.p + at), b = *(const uint4*)((const u16*)s.p + at + 8);
      out[0] = a.x, out[1] = a.y, out[2] = a.z, out[3] = a.w, out[4] = b.x, out[5] = b.y, out[6] = b.z, out[7] = b.w;
    } else {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float4 v = *(const float4*)((const float*)s.p + at + 4 * i);
        out[2 * i] = pack_bf16(v.x, v.y), out[2 * i + 1] = pack_bf16(v.z, v.w);
      }
    }
    return;
  }
  const In in = {s.p, s.half};
#pragma unroll
  for (int i = 0; i < 8; i++) out[i] = pack_bf16(2 * i < valid ? in.at(at + 2 * i) : 0.0f, 2 * i + 1 < valid ? in.at(at + 2 * i + 1) : 0.0f);
}

/* A thread's 16 elements of a tile of 128 rows and 32 ks: to registers, then to shared memory as they lie. */
__device__ __forceinline__ void fetch_side(const GemmSide& s, i64 row, i64 row_end, i64 k, i64 k_end, u32* out) {
  const i64 line = s.rows ? row + threadIdx.x / 2 : k + threadIdx.x / 8, at = s.rows ? k + threadIdx.x % 2 * 16 : row + threadIdx.x % 8 * 16;
  const bool there = line < (s.rows ? row_end : k_end);
  const i64 end = s.rows ? k_end : row_end;
  load16(s, line * s.pitch + at, there ? end - at : 0, out);
}
__device__ __forceinline__ void place_side(const GemmSide& s, u16* tile, const u32* in) {
  const int at = s.rows ? threadIdx.x / 2 * ANY_ROW + threadIdx.x % 2 * 16 : threadIdx.x / 8 * ANY_LINE + threadIdx.x % 8 * 16;
  *(uint4*)(tile + at) = make_uint4(in[0], in[1], in[2], in[3]);
  *(uint4*)(tile + at + 8) = make_uint4(in[4], in[5], in[6], in[7]);
}

/* A fragment of rows row ..., and those of two columns of fragments of B, at k-step `step` of a tile in shared memory. */
__device__ __forceinline__ void a_fragment(const GemmSide& s, const u16* tile, int row, int step, int lane, u32* a) {
  if (s.rows) load_matrix_x4(a, tile + (row + lane / 8 % 2 * 8 + lane % 8) * ANY_ROW + step * 16 + lane / 16 * 8);
  else load_matrix_x4_transposed(a, tile + (step * 16 + lane / 16 * 8 + lane % 8) * ANY_LINE + row + lane / 8 % 2 * 8);
}
__device__ __forceinline__ void b_fragments(const GemmSide& s, const u16* tile, int row, int step, int lane, u32* b) {
  if (s.rows) load_matrix_x4(b, tile + (row + lane / 16 * 8 + lane % 8) * ANY_ROW + step * 16 + lane / 8 % 2 * 8);
  else load_matrix_x4_transposed(b, tile + (step * 16 + lane / 8 % 2 * 8 + lane % 8) * ANY_LINE + row + lane / 16 * 8);
}

__device__ __forceinline__ void store_element(const Gemm& g, const GemmPart& p, i64 row, i64 column, float v) {
  if (row >= p.row_end || column >= g.n) return;
  const i64 of_matrix = g.starts && g.mode != 2 ? 0 : p.matrix * g.c_batch, at = of_matrix + row * g.c_pitch + column;
  if (g.bias) v += g.bias[(g.starts ? p.matrix * g.n : 0) + column];
  if (g.add) v += g.c.in().at(at);
  g.c.put(at, v);
}

__device__ __forceinline__ GemmSide of_matrix(GemmSide s, i64 matrix) {
  s.p = s.half ? (const void*)((const u16*)s.p + matrix * s.batch) : (const void*)((const float*)s.p + matrix * s.batch);
  return s;
}

__global__ void __launch_bounds__(ANY_THREADS) gemm_mma_kernel(const __grid_constant__ Gemm g) {
  PSI_DYNAMIC_SHARED(shared);
  let_next_start();
  wait_for_inputs();
  GemmPart p;
  if (!find_part(g, ANY_SIDE, p)) return;
  const GemmSide a = of_matrix(g.a, p.matrix), b = of_matrix(g.b, p.matrix);
  const i64 column = (i64)blockIdx.x * ANY_SIDE;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row0 = warp / 4 * 64, column0 = warp % 4 * 32;
  const bool makes = p.row + row0 < p.row_end && column + column0 < g.n; /* anything of this warp's is of C */
  float sum[4][4][4] = {};
  u32 next_a[8], next_b[8];
  fetch_side(a, p.row, p.row_end, p.k, p.k_end, next_a);
  fetch_side(b, column, g.n, p.k, p.k_end, next_b);
  int now = 0;
  for (i64 k = p.k; k < p.k_end; k += ANY_K, now ^= 1) {
    u16 *tile_a = (u16*)shared + now * 2 * ANY_TILE, *tile_b = tile_a + ANY_TILE;
    place_side(a, tile_a, next_a);
    place_side(b, tile_b, next_b);
    __syncthreads();
    if (k + ANY_K < p.k_end) {
      fetch_side(a, p.row, p.row_end, k + ANY_K, p.k_end, next_a);
      fetch_side(b, column, g.n, k + ANY_K, p.k_end, next_b);
    }
    if (!makes) continue;
#pragma unroll
    for (int step = 0; step < ANY_K / 16; step++) {
      u32 fa[4][4], fb[2][4];
#pragma unroll
      for (int i = 0; i < 4; i++) a_fragment(a, tile_a, row0 + 16 * i, step, lane, fa[i]);
#pragma unroll
      for (int j = 0; j < 2; j++) b_fragments(b, tile_b, column0 + 16 * j, step, lane, fb[j]);
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) mma_bf16(sum[i][j], fa[i], fb[j / 2] + j % 2 * 2);
    }
  }
  if (!makes) return;
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
      for (int e = 0; e < 4; e++)
        store_element(g, p, p.row + row0 + 16 * i + lane / 4 + e / 2 * 8, column + column0 + 8 * j + lane % 4 * 2 + e % 2, sum[i][j][e]);
}

constexpr int PLAIN_SIDE = 64, PLAIN_K = 16, PLAIN_ROW = PLAIN_SIDE + 4;

/* A tile of 64 rows and 16 ks to shared memory as [k][row]. */
__device__ __forceinline__ void place_plain(const GemmSide& s, i64 row, i64 row_end, i64 k, i64 k_end, float (*tile)[PLAIN_ROW]) {
  const float* in = (const float*)s.p;
#pragma unroll
  for (int i = 0; i < PLAIN_SIDE * PLAIN_K / ANY_THREADS; i++) {
    const int e = threadIdx.x + i * ANY_THREADS, r = s.rows ? e / PLAIN_K : e % PLAIN_SIDE, d = s.rows ? e % PLAIN_K : e / PLAIN_SIDE;
    const bool there = row + r < row_end && k + d < k_end;
    tile[d][r] = there ? in[s.rows ? (row + r) * s.pitch + k + d : (k + d) * s.pitch + row + r] : 0.0f;
  }
}

__global__ void __launch_bounds__(ANY_THREADS) gemm_plain_kernel(const __grid_constant__ Gemm g) {
  __shared__ float tile_a[PLAIN_K][PLAIN_ROW], tile_b[PLAIN_K][PLAIN_ROW];
  let_next_start();
  wait_for_inputs();
  GemmPart p;
  if (!find_part(g, PLAIN_SIDE, p)) return;
  const GemmSide a = of_matrix(g.a, p.matrix), b = of_matrix(g.b, p.matrix);
  const i64 column = (i64)blockIdx.x * PLAIN_SIDE;
  const int i0 = threadIdx.x / 16 * 4, j0 = threadIdx.x % 16 * 4;
  float sum[4][4] = {};
  for (i64 k = p.k; k < p.k_end; k += PLAIN_K) {
    __syncthreads();
    place_plain(a, p.row, p.row_end, k, p.k_end, tile_a);
    place_plain(b, column, g.n, k, p.k_end, tile_b);
    __syncthreads();
#pragma unroll
    for (int d = 0; d < PLAIN_K; d++) {
      const float4 x = *(const float4*)&tile_a[d][i0], y = *(const float4*)&tile_b[d][j0];
      const float u[4] = {x.x, x.y, x.z, x.w}, v[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) sum[i][j] = fmaf(u[i], v[j], sum[i][j]);
    }
  }
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) store_element(g, p, p.row + i0 + i, column + j0 + j, sum[i][j]);
}

i32 gemm_any(const char* op, const Gemm& g) {
  const bool plain = !g.a.half && !g.b.half;
  const i32 side = plain ? PLAIN_SIDE : ANY_SIDE;
  const bool by_rows = g.starts && g.mode != 2;
  const i64 tiles = by_rows ? PSI_DIVIDE_UP(g.m, side) + g.experts : PSI_DIVIDE_UP(g.m, side);
  const dim3 grid(PSI_DIVIDE_UP(g.n, side), (unsigned)tiles, by_rows ? 1 : g.batch);
  if (tiles > 65535 || grid.z > 65535) return fail(PSI_UNSUPPORTED, "[%s] expected at most %d rows and 65535 matrices, got %d and %d.", op, 65535 * side, g.m, g.batch);
  if (plain) return launch(op, gemm_plain_kernel, grid, dim3(ANY_THREADS), 0, g);
  return launch(op, gemm_mma_kernel, grid, dim3(ANY_THREADS), 4 * ANY_TILE * sizeof(u16), g);
}

}  // namespace psi
