/* Rotary embedding of one pair (RoFormer, arXiv:2104.09864): rope and rope_kv_write. */
#pragma once
#include "launch.h"

namespace psi {

struct Rotation {
  const float* inv_freq; /* [pairs] */
  i32 pairs;             /* half the rotated dimensions */
  i32 neox;              /* pairs (i, i + pairs), else (2i, 2i + 1) */
  float mscale;
};

__device__ __forceinline__ void rotation_of(const Rotation& r, i32 position, i32 pair, float& cosine, float& sine) {
  sincosf(__fmul_rn((float)position, r.inv_freq[pair]), &sine, &cosine);
  cosine = __fmul_rn(cosine, r.mscale), sine = __fmul_rn(sine, r.mscale);
}

/* Rounded after each step, as on the CPU. */
__device__ __forceinline__ float turned_first(float a, float b, float cosine, float sine) {
  return __fadd_rn(__fmul_rn(a, cosine), -__fmul_rn(b, sine));
}
__device__ __forceinline__ float turned_second(float a, float b, float cosine, float sine) {
  return __fadd_rn(__fmul_rn(a, sine), __fmul_rn(b, cosine));
}

/* Turns pair `pair` of heads first, first + 1, ..., below `end`, in place. */
__device__ __forceinline__ void turn_heads(const Rotation& r, float* row, i32 head_dim, i32 first, i32 end, i32 pair, float cosine, float sine) {
  const i32 one = r.neox ? pair : 2 * pair, other = r.neox ? pair + r.pairs : 2 * pair + 1;
  for (i32 h = first; h < end; h++) {
    float *a = row + (i64)h * head_dim + one, *b = row + (i64)h * head_dim + other;
    const float x = *a, y = *b;
    *a = turned_first(x, y, cosine, sine), *b = turned_second(x, y, cosine, sine);
  }
}

/* Heads that a thread turns with one sine: one where there are few rows, which are to be spread. */
inline i32 heads_at_once(i32 rows) { return rows >= 64 ? 8 : 1; }

}  // namespace psi
