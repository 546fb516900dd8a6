/*
 * The gated delta rule by chunks (WY form, arXiv:2412.06464) of CHUNK tokens, cut at multiples of CHUNK of the positions. With S from
 * before the chunk, G_i = g_0 + ... + g_i in it, and k and q of length 1, q also by 1/sqrt(key_dim):
 *   u_i = beta_i (v_i - exp(G_i) S^T k_i - sum_{m<i} exp(G_i - G_m) (k_i.k_m) u_m)
 *   y_i = exp(G_i) S^T q_i + sum_{m<=i} exp(G_i - G_m) (q_i.k_m) u_m
 * and after its last token S = exp(G) S + sum_m exp(G - G_m) k_m u_m^T. Kept is w_m = u_m / |k_m|, so that products take k as it is.
 *
 * A head's state is S as it was before the chunk and, below it, w, k and G of the chunk's tokens so far: a token's sums are the same
 * whether the tokens before it came with it, before, or one by one. In the first chunk S is zero and not read.
 *
 * Products S^T k, S^T q, k.k_m, q.k_m and the last sum are tensor cores' (tf32.h). A warp has 16 columns of S (or 16 tokens m) by 64
 * keys, a half, in tiles of 8 keys; the two halves are added. Of tile element (g, 2t) a lane (g = lane / 4, t = lane % 4) has, as
 * they follow in s[4]: column 2g, keys 2t and 2t+1; column 2g+1, both. Sums over tokens are chains, m ascending.
 */
#pragma once
#include "recurrent.cuh"
#include "tf32.h"

namespace psi {

constexpr i32 CHUNK = 16, CHUNK_KEYS = 128, HALF_TILES = 8;
constexpr i32 KEY_ROW = CHUNK_KEYS + 8; /* floats between tokens in shared memory, so that lanes of a warp have banks of their own */

/* Rows of a head's state. */
inline i32 chunk_state_rows(i32 key_dim, i32 value_dim) { return key_dim + CHUNK + PSI_DIVIDE_UP(CHUNK * (key_dim + 1), value_dim); }

/* A head's state; k: CHUNK rows of key_dim, sums: G of CHUNK tokens. */
struct ChunkState {
  float *s, *w, *k, *sums;
  __device__ __forceinline__ ChunkState(float* all, i64 head, i32 rows, i32 key_dim, i32 value_dim) {
    s = all + head * rows * value_dim;
    w = s + (i64)key_dim * value_dim;
    k = w + (i64)CHUNK * value_dim;
    sums = k + (i64)CHUNK * key_dim;
  }
};

/* Tiles of a half that have keys. */
__device__ __forceinline__ i32 half_tiles(i32 key_dim, i32 half) { return min(max(key_dim - 64 * half + 7, 0) / 8, HALF_TILES); }

__device__ __forceinline__ float log_decay(float a, float dt_bias, float decay) {
  const float raw = __fadd_rn(a, dt_bias);
  return __fmul_rn(decay, raw > 20.0f ? raw : log1pf(expf(raw)));
}

/* Factors of a token, from G, the raw gate b, k.k and q.q. */
struct ChunkFactors {
  float sum, predict, write, read, k_scale, q_scale;
};

__device__ __forceinline__ ChunkFactors chunk_factors(float sum, float b, float kk, float qq, i32 key_dim) {
  const float beta = __fdividef(1.0f, __fadd_rn(1.0f, expf(-b))), decay = expf(sum);
  ChunkFactors f;
  f.sum = sum;
  f.k_scale = rsqrtf(__fadd_rn(kk, 1e-6f)), f.q_scale = rsqrtf(__fmul_rn(__fadd_rn(qq, 1e-6f), (float)key_dim));
  f.predict = __fmul_rn(decay, f.k_scale), f.read = __fmul_rn(decay, f.q_scale);
  f.write = __fmul_rn(beta, f.k_scale);
  return f;
}

/* What a token takes of one before it, of which it has the product: scale is the token's, sum and before their G. */
__device__ __forceinline__ float chunk_share(float scale, float sum, float before, float product) {
  return __fmul_rn(__fmul_rn(scale, expf(__fadd_rn(sum, -before))), product);
}

/* Elements (row g, keys 2t and 2t+1) and (row g+8, both) of a tile of k, as operand a. */
__device__ __forceinline__ Parts<4> key_tile(const float (*k)[KEY_ROW], i32 key) {
  const i32 lane = threadIdx.x % 32;
  const float2 x = *(const float2*)(k[lane / 4] + key + lane % 4 * 2), y = *(const float2*)(k[lane / 4 + 8] + key + lane % 4 * 2);
  return Parts<4>({x.x, y.x, x.y, y.y});
}

/* The same of S, as it stands in registers. */
__device__ __forceinline__ Parts<4> state_tile(const float (&s)[4]) { return Parts<4>({s[0], s[2], s[1], s[3]}); }

/* A lane's part of a tile of 16 columns of S, from or to rows of `stride` floats from the tile's first key and column on; `count` keys exist. */
template <bool WRITE>
__device__ __forceinline__ void move_tile(float (&s)[4], float* at, i64 stride, i32 count) {
  const i32 key = threadIdx.x % 4 * 2, column = threadIdx.x % 32 / 4 * 2;
  if (key >= count) return; /* key_dim is a multiple of 4 */
#pragma unroll
  for (int j = 0; j < 2; j++) {
    float2* pair = (float2*)(at + (key + j) * stride + column);
    if constexpr (WRITE) *pair = make_float2(s[j], s[2 + j]);
    else s[j] = pair->x, s[2 + j] = pair->y;
  }
}

/* What makes S after a chunk of S before it, tile by tile of a warp's 16 columns; lane i % CHUNK has G of token i in `sum`. */
struct ChunkEnd {
  float decay;
  u32 high[2][4], low[2][4]; /* w of the columns times its decay, eight tokens each */
  /* w: those columns, rows of w_stride. */
  __device__ __forceinline__ ChunkEnd(const float* w, i32 w_stride, float sum) {
    const i32 g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const float last = __shfl_sync(~0u, sum, CHUNK - 1), share = expf(__fadd_rn(last, -sum));
    decay = expf(last);
#pragma unroll
    for (int step = 0; step < 2; step++) {
      float of[4];
#pragma unroll
      for (int later = 0; later < 2; later++) {
        const i32 token = 8 * step + 4 * later + t;
        const float2 pair = *(const float2*)(w + token * w_stride + 2 * g);
        const float factor = __shfl_sync(~0u, share, token);
        of[2 * later] = __fmul_rn(factor, pair.x), of[2 * later + 1] = __fmul_rn(factor, pair.y);
      }
      const Parts<4> parts(of);
#pragma unroll
      for (int e = 0; e < 4; e++) high[step][e] = parts.high[e], low[step][e] = parts.low[e];
    }
  }
  /* k: the chunk's, from the tile's first key on. */
  __device__ __forceinline__ void fold(float (&s)[4], const float* k) const {
    const float* at = k + threadIdx.x % 4 * KEY_ROW + threadIdx.x % 32 / 4;
    TileSum sums;
#pragma unroll
    for (int step = 0; step < 2; step++) sums.add(high[step], low[step], Parts<2>({at[8 * step * KEY_ROW], at[(8 * step + 4) * KEY_ROW]}));
#pragma unroll
    for (int e = 0; e < 4; e++) s[e] = __fmaf_rn(decay, s[e], sums[e]);
  }
};

}  // namespace psi
