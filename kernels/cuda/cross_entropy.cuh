/*
 * What is done to rows of logits in place: a block makes one row. The loss of a row needs its largest logit and the sum of
 * exponentials, both in one pass: a thread keeps its own, a fixed tree joins them.
 */
#pragma once
#include "gemm.h"

namespace psi {

constexpr int LOSS_THREADS = 256;

/* Rows of logits, `pitch` elements apart. */
struct Logits {
  Out z;
  i64 pitch;
  i32 vocabulary;
  float softcap;
  __device__ __forceinline__ float value(float v) const { return softcap > 0 ? softcap * tanh_of(v / softcap) : v; }
};

/* Joins two maxima and sums of exp(z - maximum). */
__device__ __forceinline__ void join_sums(float& most, float& sum, float other_most, float other_sum) {
  const float m = fmaxf(most, other_most);
  if (m == -INFINITY) return;
  sum = sum * exp_of(most - m) + other_sum * exp_of(other_most - m);
  most = m;
}

/* log of the sum of exponentials of a row, to all threads */
__device__ __forceinline__ float row_log_sum(const Logits& l, i64 row) {
  __shared__ float shared_most[LOSS_THREADS / 32], shared_sum[LOSS_THREADS / 32];
  const In z = l.z.in();
  const i64 at = row * l.pitch;
  float most = -INFINITY, sum = 0;
  for (i32 j = 4 * (i32)threadIdx.x; j < l.vocabulary; j += 4 * LOSS_THREADS) {
    float4 v = z.at4(at + j); /* the pitch leaves room past the last */
    v = make_float4(l.value(v.x), l.value(v.y), l.value(v.z), l.value(v.w));
    const i32 valid = l.vocabulary - j;
    if (valid < 4) v = make_float4(v.x, valid > 1 ? v.y : -INFINITY, valid > 2 ? v.z : -INFINITY, -INFINITY);
    const float m = fmaxf(most, fmaxf(fmaxf(v.x, v.y), fmaxf(v.z, v.w)));
    if (m == -INFINITY) continue;
    sum = sum * exp_of(most - m) + ((exp_of(v.x - m) + exp_of(v.y - m)) + (exp_of(v.z - m) + exp_of(v.w - m)));
    most = m;
  }
  for (int mask = 16; mask > 0; mask >>= 1) {
    const float other_most = __shfl_xor_sync(~0u, most, mask), other_sum = __shfl_xor_sync(~0u, sum, mask);
    join_sums(most, sum, other_most, other_sum);
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared_most[threadIdx.x / 32] = most, shared_sum[threadIdx.x / 32] = sum;
  __syncthreads();
  most = shared_most[0], sum = shared_sum[0];
  for (int w = 1; w < LOSS_THREADS / 32; w++) join_sums(most, sum, shared_most[w], shared_sum[w]);
  return most + logf(sum);
}

/* z becomes (exp(z - lse) - [j = target]) scale, times the slope of the soft-cap; zeros to the end of the pitch. */
__device__ __forceinline__ void row_gradient(const Logits& l, i64 row, float lse, i32 target, float scale) {
  const i64 at = row * l.pitch;
  for (i32 j = 4 * (i32)threadIdx.x; j < l.pitch; j += 4 * LOSS_THREADS) {
    const float4 in = l.z.in().at4(at + j);
    const float z[4] = {in.x, in.y, in.z, in.w};
    float d[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float v = l.value(z[i]);
      d[i] = (exp_of(v - lse) - (j + i == target ? 1.0f : 0.0f)) * scale;
      if (l.softcap > 0) d[i] *= 1.0f - v * v / (l.softcap * l.softcap);
      if (j + i >= l.vocabulary || scale == 0.0f) d[i] = 0.0f;
    }
    l.z.put4(at + j, make_float4(d[0], d[1], d[2], d[3]));
  }
}

/* The columns that logits are stored with. */
inline i64 logit_pitch(i64 vocabulary) { return PSI_DIVIDE_UP(vocabulary, 64) * 64; }

/* One product on the kernels of gemm.h; scratch as they want it. */
inline i32 product_of(const char* op, const GemmSide& a, const GemmSide& b, Out c, const float* bias, i64 c_pitch, i64 m, i64 n, i64 k, bool add, void* scratch, f64 scratch_bytes) {
  Gemm g = {};
  g.a = a, g.b = b, g.c = c, g.bias = bias, g.c_pitch = c_pitch, g.add = add;
  g.m = (i32)m, g.n = (i32)n, g.k = (i32)k, g.batch = 1;
  return gemm_fits_wgmma(g) ? gemm_wgmma(op, g, scratch, scratch_bytes) : gemm_any(op, g);
}

}  // namespace psi
