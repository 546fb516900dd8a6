/* simd.h in plain C++: arrays that the compiler may vectorise with the baseline instructions. No fused products. */
#pragma once
#include <math.h>

#include "half.h"
#include "isa.h"

namespace psi::PSI_ISA {

struct vf { float v[16]; };
struct vi { i32 v[16]; };
struct vb { u8 v[64]; };
struct vm { i32 v[16]; };
constexpr bool FAST_U8S8 = true, WORD_SUMS = false;
constexpr int ACCUMULATORS = 6;
/* Register tiles of products: panels of 16 outputs by rows of input, for integer and for float weights. */
constexpr int TILE_PANELS = 1, TILE_ROWS = 1, FLOAT_PANELS = 1, FLOAT_ROWS = 1, DIRECT_ROWS = 1, DIRECT_PANELS = 1;

#define PSI_EACH(type, expression)                    \
  type r;                                             \
  for (int i = 0; i < 16; i++) r.v[i] = (expression); \
  return r
#define PSI_EACHB(expression)                         \
  vb r;                                               \
  for (int i = 0; i < 64; i++) r.v[i] = (expression); \
  return r

PSI_INLINE vf load(const float* p) { PSI_EACH(vf, p[i]); }
PSI_INLINE void store(float* p, vf a) { memcpy(p, a.v, 64); }
PSI_INLINE vf load_n(const float* p, int n) { PSI_EACH(vf, i < n ? p[i] : 0.0f); }
PSI_INLINE void store_n(float* p, vf a, int n) {
  for (int i = 0; i < n; i++) p[i] = a.v[i];
}
PSI_INLINE vf set1(float x) { PSI_EACH(vf, x); }
PSI_INLINE vf zero() { return set1(0.0f); }
PSI_INLINE vf add(vf a, vf b) { PSI_EACH(vf, a.v[i] + b.v[i]); }
PSI_INLINE vf sub(vf a, vf b) { PSI_EACH(vf, a.v[i] - b.v[i]); }
PSI_INLINE vf mul(vf a, vf b) { PSI_EACH(vf, a.v[i] * b.v[i]); }
PSI_INLINE vf div(vf a, vf b) { PSI_EACH(vf, a.v[i] / b.v[i]); }
PSI_INLINE vf fma(vf a, vf b, vf c) { PSI_EACH(vf, a.v[i] * b.v[i] + c.v[i]); }
PSI_INLINE vf max(vf a, vf b) { PSI_EACH(vf, a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
PSI_INLINE vf min(vf a, vf b) { PSI_EACH(vf, a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
PSI_INLINE vf abs(vf a) { PSI_EACH(vf, fabsf(a.v[i])); }
PSI_INLINE vf sqrt(vf a) { PSI_EACH(vf, sqrtf(a.v[i])); }
PSI_INLINE vf round(vf a) { PSI_EACH(vf, rintf(a.v[i])); }

PSI_INLINE vi loadi(const void* p) {
  vi r;
  memcpy(r.v, p, 64);
  return r;
}
PSI_INLINE void storei(void* p, vi a) { memcpy(p, a.v, 64); }
PSI_INLINE vi set1i(i32 x) { PSI_EACH(vi, x); }
PSI_INLINE vi zeroi() { return set1i(0); }
/* Hides the value from the optimiser. */
PSI_INLINE void opaque(vi& a) { asm volatile("" : : "r"(a.v) : "memory"); }
PSI_INLINE vi addi(vi a, vi b) { PSI_EACH(vi, (i32)((u32)a.v[i] + (u32)b.v[i])); }
PSI_INLINE vi subi(vi a, vi b) { PSI_EACH(vi, (i32)((u32)a.v[i] - (u32)b.v[i])); }
PSI_INLINE vi muli(vi a, vi b) { PSI_EACH(vi, (i32)((u32)a.v[i] * (u32)b.v[i])); }
PSI_INLINE vi andi(vi a, vi b) { PSI_EACH(vi, a.v[i] & b.v[i]); }
PSI_INLINE vi ori(vi a, vi b) { PSI_EACH(vi, a.v[i] | b.v[i]); }
PSI_INLINE vi maxi(vi a, vi b) { PSI_EACH(vi, a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
PSI_INLINE vi mini(vi a, vi b) { PSI_EACH(vi, a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
template <int N> PSI_INLINE vi shli(vi a) { PSI_EACH(vi, (i32)((u32)a.v[i] << N)); }
template <int N> PSI_INLINE vi shri(vi a) { PSI_EACH(vi, (i32)((u32)a.v[i] >> N)); }
template <int N> PSI_INLINE vi sari(vi a) { PSI_EACH(vi, a.v[i] >> N); }

PSI_INLINE vf cvt(vi a) { PSI_EACH(vf, (float)a.v[i]); }
/* out of range and NaN give INT32_MIN, as the vector instructions do */
PSI_INLINE vi cvt_round(vf a) {
  PSI_EACH(vi, a.v[i] >= -2147483648.0f && a.v[i] < 2147483648.0f ? (i32)rintf(a.v[i]) : INT32_MIN);
}
PSI_INLINE vi bits(vf a) { return loadi(a.v); }
PSI_INLINE vf floats(vi a) {
  vf r;
  memcpy(r.v, a.v, 64);
  return r;
}

PSI_INLINE vm gt(vf a, vf b) { PSI_EACH(vm, a.v[i] > b.v[i]); }
PSI_INLINE vm ge(vf a, vf b) { PSI_EACH(vm, a.v[i] >= b.v[i]); }
PSI_INLINE vm lt(vf a, vf b) { PSI_EACH(vm, a.v[i] < b.v[i]); }
PSI_INLINE vm eq(vf a, vf b) { PSI_EACH(vm, a.v[i] == b.v[i]); }
PSI_INLINE vm eqi(vi a, vi b) { PSI_EACH(vm, a.v[i] == b.v[i]); }
PSI_INLINE vf select(vm m, vf a, vf b) { PSI_EACH(vf, m.v[i] ? a.v[i] : b.v[i]); }
PSI_INLINE vi select(vm m, vi a, vi b) { PSI_EACH(vi, m.v[i] ? a.v[i] : b.v[i]); }

PSI_INLINE u16 u16_at(const void* p, int i) {
  u16 h;
  memcpy(&h, (const u8*)p + 2 * i, 2);
  return h;
}
PSI_INLINE vf load_f16(const void* p) { PSI_EACH(vf, f16_to_f32(u16_at(p, i))); }
PSI_INLINE vf load_bf16(const void* p) { PSI_EACH(vf, bf16_to_f32(u16_at(p, i))); }
PSI_INLINE void store_f16(void* p, vf a) {
  for (int i = 0; i < 16; i++) {
    u16 h = f32_to_f16(a.v[i]);
    memcpy((u8*)p + 2 * i, &h, 2);
  }
}
PSI_INLINE void store_bf16(void* p, vf a) {
  for (int i = 0; i < 16; i++) {
    u16 h = f32_to_bf16(a.v[i]);
    memcpy((u8*)p + 2 * i, &h, 2);
  }
}
PSI_INLINE vi load_u8(const void* p) { PSI_EACH(vi, ((const u8*)p)[i]); }
PSI_INLINE vi load_s8(const void* p) { PSI_EACH(vi, ((const i8*)p)[i]); }
PSI_INLINE void store_s8(void* p, vi a) {
  for (int i = 0; i < 16; i++) ((i8*)p)[i] = (i8)(a.v[i] > 127 ? 127 : a.v[i] < -128 ? -128 : a.v[i]);
}

PSI_INLINE vb loadb(const void* p) {
  vb r;
  memcpy(r.v, p, 64);
  return r;
}
PSI_INLINE void storeb(void* p, vb a) { memcpy(p, a.v, 64); }
PSI_INLINE vb set1b(u8 x) { PSI_EACHB(x); }
PSI_INLINE vb andb(vb a, vb b) { PSI_EACHB(a.v[i] & b.v[i]); }
PSI_INLINE vb orb(vb a, vb b) { PSI_EACHB(a.v[i] | b.v[i]); }
PSI_INLINE vb xorb(vb a, vb b) { PSI_EACHB(a.v[i] ^ b.v[i]); }
template <int N> PSI_INLINE vb shrb(vb a) {
  u32 w[16];
  memcpy(w, a.v, 64);
  for (int i = 0; i < 16; i++) w[i] >>= N;
  return loadb(w);
}
template <int N> PSI_INLINE vb shlb(vb a) {
  u32 w[16];
  memcpy(w, a.v, 64);
  for (int i = 0; i < 16; i++) w[i] <<= N;
  return loadb(w);
}
PSI_INLINE vb lookup16(vb index, const u8* table) { PSI_EACHB(table[index.v[i] & 15]); }

PSI_INLINE vi dot4_u8s8(vi acc, vb u, vi s) {
  i8 x[64];
  memcpy(x, s.v, 64);
  for (int i = 0; i < 16; i++)
    acc.v[i] += u.v[4 * i] * x[4 * i] + u.v[4 * i + 1] * x[4 * i + 1] + u.v[4 * i + 2] * x[4 * i + 2] + u.v[4 * i + 3] * x[4 * i + 3];
  return acc;
}
PSI_INLINE vi dot4_u7s8(vi acc, vb u, vi s) { return dot4_u8s8(acc, u, s); }
PSI_INLINE vi dot4_s8s8(vi acc, vb a, vi s) {
  i8 x[64];
  memcpy(x, s.v, 64);
  for (int i = 0; i < 64; i++) acc.v[i / 4] += (i8)a.v[i] * x[i];
  return acc;
}

#define PSI_TREE(combine)                             \
  for (int step = 8; step; step >>= 1)                \
    for (int i = 0; i < step; i++) {                  \
      auto x = a.v[i];                                \
      auto y = a.v[i + step];                         \
      a.v[i] = (combine);                             \
    }                                                 \
  return a.v[0]
PSI_INLINE float hsum(vf a) { PSI_TREE(x + y); }
PSI_INLINE float hmax(vf a) { PSI_TREE(x > y ? x : y); }
PSI_INLINE float hmin(vf a) { PSI_TREE(x < y ? x : y); }
PSI_INLINE i32 hsumi(vi a) { PSI_TREE((i32)((u32)x + (u32)y)); }
#undef PSI_EACH
#undef PSI_EACHB
#undef PSI_TREE

}  // namespace psi::PSI_ISA
