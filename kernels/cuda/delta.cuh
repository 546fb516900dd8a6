/*
 * What the kernels of the gated delta rule share: a token's factors, its sums over rows of S, S after it. A thread has 2 columns of
 * ROWS rows of S, 8 neighbours the rows of a column; sums over rows are a thread's in order, then a tree over its 8 neighbours.
 */
#pragma once
#include "recurrent.cuh"

namespace psi {

/* Factors of a token; the lengths of k and q are in them. */
struct alignas(16) DeltaFactors {
  float decay, predict, write, read, direct;
};

/* The raw gates of a token, and k.k, q.q, k.q */
__device__ __forceinline__ DeltaFactors delta_factors(float a, float b, float decay, float dt_bias, float kk, float qq, float kq, i32 key_dim) {
  const float raw = __fadd_rn(a, dt_bias);
  const float softplus = raw > 20.0f ? raw : log1pf(expf(raw));
  const float beta = __fdividef(1.0f, __fadd_rn(1.0f, expf(-b)));
  const float k_scale = rsqrtf(__fadd_rn(kk, 1e-6f)), q_scale = rsqrtf(__fmul_rn(__fadd_rn(qq, 1e-6f), (float)key_dim));
  DeltaFactors f;
  f.decay = expf(__fmul_rn(decay, softplus));
  f.predict = __fmul_rn(f.decay, k_scale);
  f.write = __fmul_rn(beta, k_scale);
  f.read = __fmul_rn(f.decay, q_scale);
  f.direct = __fmul_rn(kq, q_scale);
  return f;
}

/* The column, of the thread's two, that its lane has after the sums over rows. */
__device__ __forceinline__ int own_column() { return threadIdx.x / 2 % 2; }

/* The rows of k or q that a thread multiplies, four at a time: from registers. */
struct HeldRows {
  const float* held;
  __device__ __forceinline__ float4 four(int i) const { return make_float4(held[4 * i], held[4 * i + 1], held[4 * i + 2], held[4 * i + 3]); }
};

/*
 * The state before a token times its raw k and q: a lane gets one of the sums of its two columns, those of q where it has_o,
 * of the second column where it has that one (own_column). `meanwhile` is for loads: it runs beside the sums.
 */
template <int ROWS, class Rows, class F>
__device__ __forceinline__ float delta_sums(const float (*s)[2], const Rows& k, const Rows& q, F&& meanwhile) {
  const bool has_o = threadIdx.x % 32 & 4, second = own_column();
  float p[2] = {}, o[2] = {};
#pragma unroll
  for (int i = 0; i < ROWS; i += 4) {
    const float4 k4 = k.four(i / 4), q4 = q.four(i / 4);
    const float ks[4] = {k4.x, k4.y, k4.z, k4.w}, qs[4] = {q4.x, q4.y, q4.z, q4.w};
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
      for (int c = 0; c < 2; c++) p[c] = __fmaf_rn(s[i + j][c], ks[j], p[c]), o[c] = __fmaf_rn(s[i + j][c], qs[j], o[c]);
  }
  meanwhile();
  /* four sums over 8 lanes: the first two exchanges halve what a lane has, to one of p[0], p[1], o[0], o[1] */
#pragma unroll
  for (int c = 0; c < 2; c++) p[c] = __fadd_rn(has_o ? o[c] : p[c], __shfl_xor_sync(~0u, has_o ? p[c] : o[c], 4));
  float sum = __fadd_rn(second ? p[1] : p[0], __shfl_xor_sync(~0u, second ? p[0] : p[1], 2));
  return __fadd_rn(sum, __shfl_xor_sync(~0u, sum, 1));
}

/* What changes in the thread's two columns, from delta_sums, the lane's column of v and the factors; emit(column, y) for each of the block's columns. */
template <class Emit>
__device__ __forceinline__ float2 delta_change(float sum, float v, const DeltaFactors& f, Emit&& emit) {
  const int lane = threadIdx.x % 32;
  const bool has_o = lane & 4, second = own_column();
  const float change = __fmul_rn(f.write, __fmaf_rn(-f.predict, sum, v));
  const float u[2] = {__shfl_sync(~0u, change, lane & 24), __shfl_sync(~0u, change, (lane & 24) | 2)};
  if (has_o && lane % 2 == 0) emit((i32)threadIdx.x / 8 * 2 + own_column(), __fmaf_rn(f.direct, second ? u[1] : u[0], __fmul_rn(f.read, sum)));
  return make_float2(u[0], u[1]);
}

template <int ROWS, class Rows>
__device__ __forceinline__ void delta_move(float (*s)[2], const Rows& k, float2 u, float decay) {
#pragma unroll
  for (int i = 0; i < ROWS; i += 4) {
    const float4 k4 = k.four(i / 4);
    const float ks[4] = {k4.x, k4.y, k4.z, k4.w};
#pragma unroll
    for (int j = 0; j < 4; j++) {
      s[i + j][0] = __fmaf_rn(ks[j], u.x, __fmul_rn(decay, s[i + j][0]));
      s[i + j][1] = __fmaf_rn(ks[j], u.y, __fmul_rn(decay, s[i + j][1]));
    }
  }
}

/* Reads or writes this thread's part of S. */
template <int ROWS, bool WHOLE, bool WRITE>
__device__ __forceinline__ void move_state(float (*s)[2], float* state, i32 key_dim, i32 value_dim, i32 column) {
  if (column >= value_dim) return;
  const i32 first = threadIdx.x % 8 * 4;
  state += (i64)first * value_dim + column;
#pragma unroll
  for (int i = 0; i < ROWS; i += 4) {
    /* key_dim is a multiple of 4 where all is in whole pieces */
    if (first + i * 8 >= key_dim) break;
#pragma unroll
    for (int j = 0; j < 4; j++) {
      float* at = state + (i64)(i * 8 + j) * value_dim;
      float* own = s[i + j];
      if constexpr (WHOLE) {
        if constexpr (WRITE) *(float2*)at = make_float2(own[0], own[1]);
        else {
          const float2 f = *(const float2*)at;
          own[0] = f.x, own[1] = f.y;
        }
      } else {
#pragma unroll
        for (int c = 0; c < 2; c++) {
          if (first + i * 8 + j >= key_dim || column + c >= value_dim) continue;
          if constexpr (WRITE) at[c] = own[c];
          else own[c] = at[c];
        }
      }
    }
  }
}

}  // namespace psi
