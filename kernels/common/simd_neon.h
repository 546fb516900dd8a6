/* simd.h for arm64 with dotprod: four q registers a vector. */
#pragma once
#include <arm_neon.h>

#include "isa.h"

namespace psi::PSI_ISA {

struct vf { float32x4_t a, b, c, d; };
struct vi { int32x4_t a, b, c, d; };
struct vb { uint8x16_t a, b, c, d; };
struct vm { uint32x4_t a, b, c, d; };
constexpr bool FAST_U8S8 = false, WORD_SUMS = false;
constexpr int ACCUMULATORS = 6;
/* Register tiles of products: panels of 16 outputs by rows of input, for integer and for float weights. */
constexpr int TILE_PANELS = 1, TILE_ROWS = 4, FLOAT_PANELS = 2, FLOAT_ROWS = 2, DIRECT_ROWS = 4, DIRECT_PANELS = 1;

#define PSI_1(out, in, name, f) \
  PSI_INLINE out name(in x) { return {f(x.a), f(x.b), f(x.c), f(x.d)}; }
#define PSI_2(out, in, name, f) \
  PSI_INLINE out name(in x, in y) { return {f(x.a, y.a), f(x.b, y.b), f(x.c, y.c), f(x.d, y.d)}; }
#define PSI_N(out, in, name, f) \
  template <int N> PSI_INLINE out name(in x) { return {f(x.a, N), f(x.b, N), f(x.c, N), f(x.d, N)}; }

PSI_INLINE vf load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}; }
PSI_INLINE void store(float* p, vf x) {
  vst1q_f32(p, x.a);
  vst1q_f32(p + 4, x.b);
  vst1q_f32(p + 8, x.c);
  vst1q_f32(p + 12, x.d);
}
PSI_INLINE vf load_n(const float* p, int n) {
  float t[16] = {};
  memcpy(t, p, 4 * (size_t)n);
  return load(t);
}
PSI_INLINE void store_n(float* p, vf x, int n) {
  float t[16];
  store(t, x);
  memcpy(p, t, 4 * (size_t)n);
}
PSI_INLINE vf set1(float x) { return {vdupq_n_f32(x), vdupq_n_f32(x), vdupq_n_f32(x), vdupq_n_f32(x)}; }
PSI_INLINE vf zero() { return set1(0.0f); }
PSI_2(vf, vf, add, vaddq_f32)
PSI_2(vf, vf, sub, vsubq_f32)
PSI_2(vf, vf, mul, vmulq_f32)
PSI_2(vf, vf, div, vdivq_f32)
PSI_INLINE vf fma(vf x, vf y, vf z) {
  return {vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b), vfmaq_f32(z.c, x.c, y.c), vfmaq_f32(z.d, x.d, y.d)};
}
PSI_INLINE float32x4_t max4(float32x4_t x, float32x4_t y) { return vbslq_f32(vcgtq_f32(x, y), x, y); }
PSI_INLINE float32x4_t min4(float32x4_t x, float32x4_t y) { return vbslq_f32(vcltq_f32(x, y), x, y); }
PSI_2(vf, vf, max, max4)
PSI_2(vf, vf, min, min4)
PSI_1(vf, vf, abs, vabsq_f32)
PSI_1(vf, vf, sqrt, vsqrtq_f32)
PSI_1(vf, vf, round, vrndnq_f32)

PSI_INLINE vi loadi(const void* p) {
  const i32* q = (const i32*)p;
  return {vld1q_s32(q), vld1q_s32(q + 4), vld1q_s32(q + 8), vld1q_s32(q + 12)};
}
PSI_INLINE void storei(void* p, vi x) {
  i32* q = (i32*)p;
  vst1q_s32(q, x.a);
  vst1q_s32(q + 4, x.b);
  vst1q_s32(q + 8, x.c);
  vst1q_s32(q + 12, x.d);
}
PSI_INLINE vi set1i(i32 x) { return {vdupq_n_s32(x), vdupq_n_s32(x), vdupq_n_s32(x), vdupq_n_s32(x)}; }
PSI_INLINE vi zeroi() { return set1i(0); }
/* Hides the value from the optimiser. */
PSI_INLINE void opaque(vi& a) { asm volatile("" : "+w"(a.a), "+w"(a.b), "+w"(a.c), "+w"(a.d)); }
PSI_2(vi, vi, addi, vaddq_s32)
PSI_2(vi, vi, subi, vsubq_s32)
PSI_2(vi, vi, muli, vmulq_s32)
PSI_2(vi, vi, andi, vandq_s32)
PSI_2(vi, vi, ori, vorrq_s32)
PSI_2(vi, vi, maxi, vmaxq_s32)
PSI_2(vi, vi, mini, vminq_s32)
PSI_N(vi, vi, shli, vshlq_n_s32)
PSI_N(vi, vi, sari, vshrq_n_s32)
template <int N> PSI_INLINE int32x4_t shri4(int32x4_t x) {
  return vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(x), N));
}
template <int N> PSI_INLINE vi shri(vi x) { return {shri4<N>(x.a), shri4<N>(x.b), shri4<N>(x.c), shri4<N>(x.d)}; }

PSI_1(vf, vi, cvt, vcvtq_f32_s32)
PSI_1(vi, vf, cvt_round, vcvtnq_s32_f32)
PSI_1(vi, vf, bits, vreinterpretq_s32_f32)
PSI_1(vf, vi, floats, vreinterpretq_f32_s32)

PSI_2(vm, vf, gt, vcgtq_f32)
PSI_2(vm, vf, ge, vcgeq_f32)
PSI_2(vm, vf, lt, vcltq_f32)
PSI_2(vm, vf, eq, vceqq_f32)
PSI_2(vm, vi, eqi, vceqq_s32)
PSI_INLINE vf select(vm m, vf x, vf y) {
  return {vbslq_f32(m.a, x.a, y.a), vbslq_f32(m.b, x.b, y.b), vbslq_f32(m.c, x.c, y.c), vbslq_f32(m.d, x.d, y.d)};
}
PSI_INLINE vi select(vm m, vi x, vi y) {
  return {vbslq_s32(m.a, x.a, y.a), vbslq_s32(m.b, x.b, y.b), vbslq_s32(m.c, x.c, y.c), vbslq_s32(m.d, x.d, y.d)};
}

PSI_INLINE float32x4_t f16_quarter(const u8* p) { return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p))); }
PSI_INLINE vf load_f16(const void* p) {
  const u8* q = (const u8*)p;
  return {f16_quarter(q), f16_quarter(q + 8), f16_quarter(q + 16), f16_quarter(q + 24)};
}
PSI_INLINE void store_f16(void* p, vf x) {
  u8* q = (u8*)p;
  vst1_u8(q, vreinterpret_u8_f16(vcvt_f16_f32(x.a)));
  vst1_u8(q + 8, vreinterpret_u8_f16(vcvt_f16_f32(x.b)));
  vst1_u8(q + 16, vreinterpret_u8_f16(vcvt_f16_f32(x.c)));
  vst1_u8(q + 24, vreinterpret_u8_f16(vcvt_f16_f32(x.d)));
}
PSI_INLINE float32x4_t bf16_quarter(const u8* p) {
  return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(p)), 16));
}
PSI_INLINE vf load_bf16(const void* p) {
  const u8* q = (const u8*)p;
  return {bf16_quarter(q), bf16_quarter(q + 8), bf16_quarter(q + 16), bf16_quarter(q + 24)};
}
PSI_INLINE uint8x8_t to_bf16(float32x4_t x) {
  uint32x4_t b = vreinterpretq_u32_f32(x);
  uint32x4_t odd = vandq_u32(vshrq_n_u32(b, 16), vdupq_n_u32(1));
  uint32x4_t up = vshrq_n_u32(vaddq_u32(b, vaddq_u32(odd, vdupq_n_u32(0x7fff))), 16);
  uint32x4_t quiet = vorrq_u32(vshrq_n_u32(b, 16), vdupq_n_u32(0x40));
  return vreinterpret_u8_u16(vmovn_u32(vbslq_u32(vceqq_f32(x, x), up, quiet)));
}
PSI_INLINE void store_bf16(void* p, vf x) {
  u8* q = (u8*)p;
  vst1_u8(q, to_bf16(x.a));
  vst1_u8(q + 8, to_bf16(x.b));
  vst1_u8(q + 16, to_bf16(x.c));
  vst1_u8(q + 24, to_bf16(x.d));
}
PSI_INLINE vi load_u8(const void* p) {
  uint8x16_t q = vld1q_u8((const u8*)p);
  uint16x8_t lo = vmovl_u8(vget_low_u8(q)), hi = vmovl_u8(vget_high_u8(q));
  return {vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(lo))), vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(lo))),
          vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(hi))), vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(hi)))};
}
PSI_INLINE vi load_s8(const void* p) {
  int8x16_t q = vld1q_s8((const i8*)p);
  int16x8_t lo = vmovl_s8(vget_low_s8(q)), hi = vmovl_s8(vget_high_s8(q));
  return {vmovl_s16(vget_low_s16(lo)), vmovl_s16(vget_high_s16(lo)), vmovl_s16(vget_low_s16(hi)), vmovl_s16(vget_high_s16(hi))};
}
PSI_INLINE void store_s8(void* p, vi x) {
  int16x8_t lo = vcombine_s16(vqmovn_s32(x.a), vqmovn_s32(x.b)), hi = vcombine_s16(vqmovn_s32(x.c), vqmovn_s32(x.d));
  vst1q_s8((i8*)p, vcombine_s8(vqmovn_s16(lo), vqmovn_s16(hi)));
}

PSI_INLINE vb loadb(const void* p) {
  const u8* q = (const u8*)p;
  return {vld1q_u8(q), vld1q_u8(q + 16), vld1q_u8(q + 32), vld1q_u8(q + 48)};
}
PSI_INLINE void storeb(void* p, vb x) {
  u8* q = (u8*)p;
  vst1q_u8(q, x.a);
  vst1q_u8(q + 16, x.b);
  vst1q_u8(q + 32, x.c);
  vst1q_u8(q + 48, x.d);
}
PSI_INLINE vb set1b(u8 x) { return {vdupq_n_u8(x), vdupq_n_u8(x), vdupq_n_u8(x), vdupq_n_u8(x)}; }
PSI_2(vb, vb, andb, vandq_u8)
PSI_2(vb, vb, orb, vorrq_u8)
PSI_2(vb, vb, xorb, veorq_u8)
template <int N> PSI_INLINE uint8x16_t shrb4(uint8x16_t x) {
  return vreinterpretq_u8_u32(vshrq_n_u32(vreinterpretq_u32_u8(x), N));
}
template <int N> PSI_INLINE uint8x16_t shlb4(uint8x16_t x) {
  return vreinterpretq_u8_u32(vshlq_n_u32(vreinterpretq_u32_u8(x), N));
}
template <int N> PSI_INLINE vb shrb(vb x) { return {shrb4<N>(x.a), shrb4<N>(x.b), shrb4<N>(x.c), shrb4<N>(x.d)}; }
template <int N> PSI_INLINE vb shlb(vb x) { return {shlb4<N>(x.a), shlb4<N>(x.b), shlb4<N>(x.c), shlb4<N>(x.d)}; }
PSI_INLINE vb lookup16(vb index, const u8* table) {
  uint8x16_t t = vld1q_u8(table);
  return {vqtbl1q_u8(t, index.a), vqtbl1q_u8(t, index.b), vqtbl1q_u8(t, index.c), vqtbl1q_u8(t, index.d)};
}

PSI_INLINE int32x4_t dot4_quarter(int32x4_t acc, uint8x16_t x, int32x4_t s) {
  return vdotq_s32(acc, vreinterpretq_s8_u8(x), vreinterpretq_s8_s32(s));
}
PSI_INLINE vi dot4_s8s8(vi acc, vb x, vi s) {
  return {dot4_quarter(acc.a, x.a, s.a), dot4_quarter(acc.b, x.b, s.b), dot4_quarter(acc.c, x.c, s.c), dot4_quarter(acc.d, x.d, s.d)};
}
PSI_INLINE vi dot4_u7s8(vi acc, vb u, vi s) { return dot4_s8s8(acc, u, s); }
/* u = (u - 128) + 128, and 128 times the sum of s by two dot products with 64 */
PSI_INLINE vi dot4_u8s8(vi acc, vb u, vi s) {
  vb half = set1b(64);
  acc = dot4_s8s8(dot4_s8s8(acc, half, s), half, s);
  return dot4_s8s8(acc, xorb(u, set1b(128)), s);
}

PSI_INLINE float hsum(vf x) {
  float32x4_t t = vaddq_f32(vaddq_f32(x.a, x.c), vaddq_f32(x.b, x.d));
  float32x2_t h = vadd_f32(vget_low_f32(t), vget_high_f32(t));
  return vget_lane_f32(h, 0) + vget_lane_f32(h, 1);
}
PSI_INLINE float hmax(vf x) {
  float32x4_t t = max4(max4(x.a, x.c), max4(x.b, x.d));
  float v[4];
  vst1q_f32(v, t);
  float p = v[0] > v[2] ? v[0] : v[2], q = v[1] > v[3] ? v[1] : v[3];
  return p > q ? p : q;
}
PSI_INLINE float hmin(vf x) {
  float32x4_t t = min4(min4(x.a, x.c), min4(x.b, x.d));
  float v[4];
  vst1q_f32(v, t);
  float p = v[0] < v[2] ? v[0] : v[2], q = v[1] < v[3] ? v[1] : v[3];
  return p < q ? p : q;
}
PSI_INLINE i32 hsumi(vi x) { return vaddvq_s32(vaddq_s32(vaddq_s32(x.a, x.b), vaddq_s32(x.c, x.d))); }
#undef PSI_1
#undef PSI_2
#undef PSI_N

}  // namespace psi::PSI_ISA
