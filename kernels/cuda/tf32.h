/*
 * Products of f32 on tensor cores: mma.m16n8k8, whose operands are f32 of which 19 bits count, three times, so that the result is as
 * good as sums of f32 are. With g = lane / 4, t = lane % 4
 *   A (16 x 8): a[0] = row g, column t; a[1] = row g+8; a[2] = row g, column t+4; a[3] = row g+8, that
 *   B (8 x 8):  b[0] = row t of column g; b[1] = row t+4;     D (16 x 8): as in instructions.h
 */
#pragma once
#include "instructions.h"

namespace psi {

#if defined(PSI_STANDIN)
inline void mma_tf32(float* d, const u32* a, const u32* b) {
  u32 own[6];
  memcpy(own, a, 16);
  memcpy(own + 4, b, 8);
  const char* slots = standin::exchange(own, sizeof own);
  auto value = [&](int lane, int i) { return __uint_as_float(((const u32*)(slots + lane * standin::SLOT))[i] & 0xffffe000u); };
  const int g = standin::self->lane / 4, t = standin::self->lane % 4;
  for (int i = 0; i < 4; i++)
    for (int k = 0; k < 8; k++) d[i] += value(g * 4 + k % 4, i / 2 + 2 * (k / 4)) * value((2 * t + i % 2) * 4 + k % 4, 4 + k / 4);
}
#else
__device__ __forceinline__ void mma_tf32(float* d, const u32* a, const u32* b) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

/* N values as their nearest of 19 bits and what that leaves, of which 19 bits are all but the last. */
template <int N>
struct Parts {
  u32 high[N], low[N];
  __device__ __forceinline__ explicit Parts(const float (&x)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) {
      high[i] = (__float_as_uint(x[i]) + 0x1000u) & 0xffffe000u;
      low[i] = __float_as_uint(__fadd_rn(x[i], -__uint_as_float(high[i])));
    }
  }
};

/* One tile of a sum of products; three chains, of which the sum is the result, so that no instruction waits for the one before. */
struct TileSum {
  float high[4] = {}, low_high[4] = {}, high_low[4] = {};
  __device__ __forceinline__ void add(const u32* a_high, const u32* a_low, const Parts<2>& b) {
    mma_tf32(high, a_high, b.high);
    mma_tf32(low_high, a_low, b.high);
    mma_tf32(high_low, a_high, b.low);
  }
  __device__ __forceinline__ void add(const Parts<4>& a, const Parts<2>& b) { add(a.high, a.low, b); }
  __device__ __forceinline__ float operator[](int i) const { return __fadd_rn(high[i], __fadd_rn(low_high[i], high_low[i])); }
};

}  // namespace psi
