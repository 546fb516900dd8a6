/* simd.h for AVX-512 (F, BW, DQ, VL, VNNI): one zmm register a vector. */
#pragma once
#include <immintrin.h>

#include "isa.h"

namespace psi::PSI_ISA {

typedef __m512 vf; /* the compiler has the operators */
#define PSI_NATIVE_OPERATORS
typedef __m512i vi;
typedef __m512i vb;
typedef __mmask16 vm;
/* True where dot4_u8s8 costs one instruction, so unsigned bytes above 127 need no detour. */
constexpr bool FAST_U8S8 = true, WORD_SUMS = false;
/* Independent accumulators that fit the registers with room for operands; divides 24. */
constexpr int ACCUMULATORS = 12;
/* Register tiles of products: panels of 16 outputs by rows of input, for integer and for float weights. */
constexpr int TILE_PANELS = 2, TILE_ROWS = 6, FLOAT_PANELS = 4, FLOAT_ROWS = 4, DIRECT_ROWS = 4, DIRECT_PANELS = 4;

PSI_INLINE vf load(const float* p) { return _mm512_loadu_ps(p); }
PSI_INLINE void store(float* p, vf a) { _mm512_storeu_ps(p, a); }
PSI_INLINE vf load_n(const float* p, int n) { return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p); }
PSI_INLINE void store_n(float* p, vf a, int n) { _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), a); }
PSI_INLINE vf set1(float x) { return _mm512_set1_ps(x); }
PSI_INLINE vf zero() { return _mm512_setzero_ps(); }
PSI_INLINE vf add(vf a, vf b) { return _mm512_add_ps(a, b); }
PSI_INLINE vf sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
PSI_INLINE vf mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
PSI_INLINE vf div(vf a, vf b) { return _mm512_div_ps(a, b); }
PSI_INLINE vf fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
PSI_INLINE vf max(vf a, vf b) { return _mm512_max_ps(a, b); }
PSI_INLINE vf min(vf a, vf b) { return _mm512_min_ps(a, b); }
PSI_INLINE vf abs(vf a) { return _mm512_abs_ps(a); }
PSI_INLINE vf sqrt(vf a) { return _mm512_sqrt_ps(a); }
PSI_INLINE vf round(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

PSI_INLINE vi loadi(const void* p) { return _mm512_loadu_si512(p); }
PSI_INLINE void storei(void* p, vi a) { _mm512_storeu_si512(p, a); }
PSI_INLINE vi set1i(i32 x) { return _mm512_set1_epi32(x); }
PSI_INLINE vi zeroi() { return _mm512_setzero_si512(); }
/* Hides the value from the optimiser. */
PSI_INLINE void opaque(vi& a) { asm volatile("" : "+v"(a)); }
PSI_INLINE vi addi(vi a, vi b) { return _mm512_add_epi32(a, b); }
PSI_INLINE vi subi(vi a, vi b) { return _mm512_sub_epi32(a, b); }
PSI_INLINE vi muli(vi a, vi b) { return _mm512_mullo_epi32(a, b); }
PSI_INLINE vi andi(vi a, vi b) { return _mm512_and_si512(a, b); }
PSI_INLINE vi ori(vi a, vi b) { return _mm512_or_si512(a, b); }
PSI_INLINE vi maxi(vi a, vi b) { return _mm512_max_epi32(a, b); }
PSI_INLINE vi mini(vi a, vi b) { return _mm512_min_epi32(a, b); }
template <int N> PSI_INLINE vi shli(vi a) { return _mm512_slli_epi32(a, N); }
template <int N> PSI_INLINE vi shri(vi a) { return _mm512_srli_epi32(a, N); }
template <int N> PSI_INLINE vi sari(vi a) { return _mm512_srai_epi32(a, N); }

PSI_INLINE vf cvt(vi a) { return _mm512_cvtepi32_ps(a); }
PSI_INLINE vi cvt_round(vf a) { return _mm512_cvtps_epi32(a); }
PSI_INLINE vi bits(vf a) { return _mm512_castps_si512(a); }
PSI_INLINE vf floats(vi a) { return _mm512_castsi512_ps(a); }

PSI_INLINE vm gt(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
PSI_INLINE vm ge(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
PSI_INLINE vm lt(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
PSI_INLINE vm eq(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
PSI_INLINE vm eqi(vi a, vi b) { return _mm512_cmpeq_epi32_mask(a, b); }
PSI_INLINE vf select(vm m, vf a, vf b) { return _mm512_mask_blend_ps(m, b, a); }
PSI_INLINE vi select(vm m, vi a, vi b) { return _mm512_mask_blend_epi32(m, b, a); }

PSI_INLINE vf load_f16(const void* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
PSI_INLINE void store_f16(void* p, vf a) {
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
PSI_INLINE vf load_bf16(const void* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}
PSI_INLINE void store_bf16(void* p, vf a) {
  __m512i b = _mm512_castps_si512(a);
  __m512i odd = _mm512_and_si512(_mm512_srli_epi32(b, 16), _mm512_set1_epi32(1));
  __m512i up = _mm512_srli_epi32(_mm512_add_epi32(b, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  __m512i quiet = _mm512_or_si512(_mm512_srli_epi32(b, 16), _mm512_set1_epi32(0x40));
  __m512i r = _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), up, quiet);
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(r));
}
PSI_INLINE vi load_u8(const void* p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)); }
PSI_INLINE vi load_s8(const void* p) { return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)); }
PSI_INLINE void store_s8(void* p, vi a) { _mm_storeu_si128((__m128i*)p, _mm512_cvtsepi32_epi8(a)); }

PSI_INLINE vb loadb(const void* p) { return _mm512_loadu_si512(p); }
PSI_INLINE void storeb(void* p, vb a) { _mm512_storeu_si512(p, a); }
PSI_INLINE vb set1b(u8 x) { return _mm512_set1_epi8((char)x); }
PSI_INLINE vb andb(vb a, vb b) { return _mm512_and_si512(a, b); }
PSI_INLINE vb orb(vb a, vb b) { return _mm512_or_si512(a, b); }
PSI_INLINE vb xorb(vb a, vb b) { return _mm512_xor_si512(a, b); }
template <int N> PSI_INLINE vb shrb(vb a) { return _mm512_srli_epi32(a, N); }
template <int N> PSI_INLINE vb shlb(vb a) { return _mm512_slli_epi32(a, N); }
PSI_INLINE vb lookup16(vb index, const u8* table) {
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)table)), index);
}

PSI_INLINE vi dot4_u8s8(vi acc, vb u, vi s) { return _mm512_dpbusd_epi32(acc, u, s); }
PSI_INLINE vi dot4_u7s8(vi acc, vb u, vi s) { return _mm512_dpbusd_epi32(acc, u, s); }
PSI_INLINE vi dot4_s8s8(vi acc, vb a, vi s) {
  __m512i ones = _mm512_set1_epi8(1);
  __m512i sum = _mm512_slli_epi32(_mm512_dpbusd_epi32(_mm512_setzero_si512(), ones, s), 7);
  return _mm512_sub_epi32(_mm512_dpbusd_epi32(acc, _mm512_xor_si512(a, _mm512_set1_epi8(-128)), s), sum);
}

PSI_INLINE __m256 upper_half(vf a) { return _mm512_extractf32x8_ps(a, 1); }
PSI_INLINE float hsum(vf a) {
  __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a), upper_half(a));
  __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  c = _mm_add_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps(c, c, 1)));
}
PSI_INLINE float hmax(vf a) {
  __m256 b = _mm256_max_ps(_mm512_castps512_ps256(a), upper_half(a));
  __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  c = _mm_max_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_max_ss(c, _mm_shuffle_ps(c, c, 1)));
}
PSI_INLINE float hmin(vf a) {
  __m256 b = _mm256_min_ps(_mm512_castps512_ps256(a), upper_half(a));
  __m128 c = _mm_min_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  c = _mm_min_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_min_ss(c, _mm_shuffle_ps(c, c, 1)));
}
PSI_INLINE i32 hsumi(vi a) { return _mm512_reduce_add_epi32(a); }

}  // namespace psi::PSI_ISA
