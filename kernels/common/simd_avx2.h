/* simd.h for AVX2 with FMA and F16C, and for AVX-VNNI beside them: two ymm registers a vector. */
#pragma once
#include <immintrin.h>

#include "isa.h"

namespace psi::PSI_ISA {

struct vf { __m256 a, b; };
struct vi { __m256i a, b; };
struct vb { __m256i a, b; };
struct vm { __m256i a, b; };
#ifdef __AVXVNNI__
constexpr bool FAST_U8S8 = true, WORD_SUMS = false;
#else
constexpr bool FAST_U8S8 = false, WORD_SUMS = true;
#endif
constexpr int ACCUMULATORS = 6;
/* Register tiles of products: panels of 16 outputs by rows of input, for integer and for float weights. */
constexpr int TILE_PANELS = 1, TILE_ROWS = 4, FLOAT_PANELS = 2, FLOAT_ROWS = 2, DIRECT_ROWS = 4, DIRECT_PANELS = 2;

PSI_INLINE __m256i tail_mask(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
PSI_INLINE vf load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
PSI_INLINE void store(float* p, vf x) { _mm256_storeu_ps(p, x.a); _mm256_storeu_ps(p + 8, x.b); }
PSI_INLINE vf load_n(const float* p, int n) {
  return {_mm256_maskload_ps(p, tail_mask(n)), n > 8 ? _mm256_maskload_ps(p + 8, tail_mask(n - 8)) : _mm256_setzero_ps()};
}
PSI_INLINE void store_n(float* p, vf x, int n) {
  _mm256_maskstore_ps(p, tail_mask(n), x.a);
  if (n > 8) _mm256_maskstore_ps(p + 8, tail_mask(n - 8), x.b);
}
PSI_INLINE vf set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
PSI_INLINE vf zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
#define PSI_F2(name, f) \
  PSI_INLINE vf name(vf x, vf y) { return {f(x.a, y.a), f(x.b, y.b)}; }
#define PSI_I2(name, f) \
  PSI_INLINE vi name(vi x, vi y) { return {f(x.a, y.a), f(x.b, y.b)}; }
#define PSI_B2(name, f) \
  PSI_INLINE vb name(vb x, vb y) { return {f(x.a, y.a), f(x.b, y.b)}; }
PSI_F2(add, _mm256_add_ps)
PSI_F2(sub, _mm256_sub_ps)
PSI_F2(mul, _mm256_mul_ps)
PSI_F2(div, _mm256_div_ps)
PSI_F2(max, _mm256_max_ps)
PSI_F2(min, _mm256_min_ps)
PSI_INLINE vf fma(vf x, vf y, vf z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
PSI_INLINE vf abs(vf x) {
  __m256 m = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  return {_mm256_and_ps(x.a, m), _mm256_and_ps(x.b, m)};
}
PSI_INLINE vf sqrt(vf x) { return {_mm256_sqrt_ps(x.a), _mm256_sqrt_ps(x.b)}; }
PSI_INLINE vf round(vf x) {
  constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.a, mode), _mm256_round_ps(x.b, mode)};
}

PSI_INLINE vi loadi(const void* p) {
  return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)p + 1)};
}
PSI_INLINE void storei(void* p, vi x) {
  _mm256_storeu_si256((__m256i*)p, x.a);
  _mm256_storeu_si256((__m256i*)p + 1, x.b);
}
PSI_INLINE vi set1i(i32 x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
PSI_INLINE vi zeroi() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
/* Hides the value from the optimiser. */
PSI_INLINE void opaque(vi& a) { asm volatile("" : "+x"(a.a), "+x"(a.b)); }
PSI_I2(addi, _mm256_add_epi32)
PSI_I2(subi, _mm256_sub_epi32)
PSI_I2(muli, _mm256_mullo_epi32)
PSI_I2(andi, _mm256_and_si256)
PSI_I2(ori, _mm256_or_si256)
PSI_I2(maxi, _mm256_max_epi32)
PSI_I2(mini, _mm256_min_epi32)
template <int N> PSI_INLINE vi shli(vi x) { return {_mm256_slli_epi32(x.a, N), _mm256_slli_epi32(x.b, N)}; }
template <int N> PSI_INLINE vi shri(vi x) { return {_mm256_srli_epi32(x.a, N), _mm256_srli_epi32(x.b, N)}; }
template <int N> PSI_INLINE vi sari(vi x) { return {_mm256_srai_epi32(x.a, N), _mm256_srai_epi32(x.b, N)}; }

PSI_INLINE vf cvt(vi x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
PSI_INLINE vi cvt_round(vf x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
PSI_INLINE vi bits(vf x) { return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)}; }
PSI_INLINE vf floats(vi x) { return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)}; }

#define PSI_COMPARE(name, op)                                             \
  PSI_INLINE vm name(vf x, vf y) {                                        \
    return {_mm256_castps_si256(_mm256_cmp_ps(x.a, y.a, op)), _mm256_castps_si256(_mm256_cmp_ps(x.b, y.b, op))}; \
  }
PSI_COMPARE(gt, _CMP_GT_OQ)
PSI_COMPARE(ge, _CMP_GE_OQ)
PSI_COMPARE(lt, _CMP_LT_OQ)
PSI_COMPARE(eq, _CMP_EQ_OQ)
PSI_INLINE vm eqi(vi x, vi y) { return {_mm256_cmpeq_epi32(x.a, y.a), _mm256_cmpeq_epi32(x.b, y.b)}; }
PSI_INLINE vi select(vm m, vi x, vi y) {
  return {_mm256_blendv_epi8(y.a, x.a, m.a), _mm256_blendv_epi8(y.b, x.b, m.b)};
}
PSI_INLINE vf select(vm m, vf x, vf y) { return floats(select(m, bits(x), bits(y))); }

PSI_INLINE vf load_f16(const void* p) {
  const __m128i* q = (const __m128i*)p;
  return {_mm256_cvtph_ps(_mm_loadu_si128(q)), _mm256_cvtph_ps(_mm_loadu_si128(q + 1))};
}
PSI_INLINE void store_f16(void* p, vf x) {
  constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(x.a, mode));
  _mm_storeu_si128((__m128i*)p + 1, _mm256_cvtps_ph(x.b, mode));
}
PSI_INLINE __m256 bf16_half(const __m128i* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(p)), 16));
}
PSI_INLINE vf load_bf16(const void* p) { return {bf16_half((const __m128i*)p), bf16_half((const __m128i*)p + 1)}; }
PSI_INLINE __m256i to_bf16(__m256 x) {
  __m256i b = _mm256_castps_si256(x);
  __m256i odd = _mm256_and_si256(_mm256_srli_epi32(b, 16), _mm256_set1_epi32(1));
  __m256i up = _mm256_srli_epi32(_mm256_add_epi32(b, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(b, 16), _mm256_set1_epi32(0x40));
  return _mm256_blendv_epi8(up, quiet, _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
}
PSI_INLINE void store_bf16(void* p, vf x) {
  __m256i r = _mm256_packus_epi32(to_bf16(x.a), to_bf16(x.b));
  _mm256_storeu_si256((__m256i*)p, _mm256_permute4x64_epi64(r, 0xd8));
}
PSI_INLINE vi load_u8(const void* p) {
  __m128i q = _mm_loadu_si128((const __m128i*)p);
  return {_mm256_cvtepu8_epi32(q), _mm256_cvtepu8_epi32(_mm_srli_si128(q, 8))};
}
PSI_INLINE vi load_s8(const void* p) {
  __m128i q = _mm_loadu_si128((const __m128i*)p);
  return {_mm256_cvtepi8_epi32(q), _mm256_cvtepi8_epi32(_mm_srli_si128(q, 8))};
}
PSI_INLINE void store_s8(void* p, vi x) {
  __m128i lo = _mm_packs_epi32(_mm256_castsi256_si128(x.a), _mm256_extracti128_si256(x.a, 1));
  __m128i hi = _mm_packs_epi32(_mm256_castsi256_si128(x.b), _mm256_extracti128_si256(x.b, 1));
  _mm_storeu_si128((__m128i*)p, _mm_packs_epi16(lo, hi));
}

PSI_INLINE vb loadb(const void* p) {
  return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)p + 1)};
}
PSI_INLINE void storeb(void* p, vb x) {
  _mm256_storeu_si256((__m256i*)p, x.a);
  _mm256_storeu_si256((__m256i*)p + 1, x.b);
}
PSI_INLINE vb set1b(u8 x) { return {_mm256_set1_epi8((char)x), _mm256_set1_epi8((char)x)}; }
PSI_B2(andb, _mm256_and_si256)
PSI_B2(orb, _mm256_or_si256)
PSI_B2(xorb, _mm256_xor_si256)
template <int N> PSI_INLINE vb shrb(vb x) { return {_mm256_srli_epi32(x.a, N), _mm256_srli_epi32(x.b, N)}; }
template <int N> PSI_INLINE vb shlb(vb x) { return {_mm256_slli_epi32(x.a, N), _mm256_slli_epi32(x.b, N)}; }
PSI_INLINE vb lookup16(vb index, const u8* table) {
  __m256i t = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)table));
  return {_mm256_shuffle_epi8(t, index.a), _mm256_shuffle_epi8(t, index.b)};
}

#ifdef __AVXVNNI__
PSI_INLINE vi dot4_u8s8(vi acc, vb u, vi s) {
  return {_mm256_dpbusd_avx_epi32(acc.a, u.a, s.a), _mm256_dpbusd_avx_epi32(acc.b, u.b, s.b)};
}
PSI_INLINE vi dot4_u7s8(vi acc, vb u, vi s) { return dot4_u8s8(acc, u, s); }
PSI_INLINE vi dot4_s8s8(vi acc, vb x, vi s) {
  vi sum = dot4_u8s8(zeroi(), set1b(1), s);
  return subi(dot4_u8s8(acc, xorb(x, set1b(128)), s), shli<7>(sum));
}
#else
/* maddubs saturates at 16 bits, so the unsigned side must stay within 128. */
PSI_INLINE __m256i dot4_half(__m256i acc, __m256i u, __m256i s) {
  return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(u, s), _mm256_set1_epi16(1)));
}
PSI_INLINE vi dot4_u7s8(vi acc, vb u, vi s) { return {dot4_half(acc.a, u.a, s.a), dot4_half(acc.b, u.b, s.b)}; }
PSI_INLINE __m256i dot4_signed_half(__m256i acc, __m256i x, __m256i s) {
  return dot4_half(acc, _mm256_abs_epi8(x), _mm256_sign_epi8(s, x));
}
PSI_INLINE vi dot4_s8s8(vi acc, vb x, vi s) {
  return {dot4_signed_half(acc.a, x.a, s.a), dot4_signed_half(acc.b, x.b, s.b)};
}
PSI_INLINE vi word_products(vb u, vi s) { return {_mm256_maddubs_epi16(u.a, s.a), _mm256_maddubs_epi16(u.b, s.b)}; }
PSI_INLINE vi add_words(vi x, vi y) { return {_mm256_add_epi16(x.a, y.a), _mm256_add_epi16(x.b, y.b)}; }
PSI_INLINE vi add_word_pairs(vi acc, vi x) {
  __m256i one = _mm256_set1_epi16(1);
  return {_mm256_add_epi32(acc.a, _mm256_madd_epi16(x.a, one)), _mm256_add_epi32(acc.b, _mm256_madd_epi16(x.b, one))};
}
/* u*s by 16-bit products of the even and the odd bytes: exact for the whole range */
PSI_INLINE __m256i dot4_unsigned_half(__m256i acc, __m256i u, __m256i s) {
  __m256i low = _mm256_set1_epi16(0xff);
  __m256i even = _mm256_madd_epi16(_mm256_and_si256(u, low), _mm256_srai_epi16(_mm256_slli_epi16(s, 8), 8));
  __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(u, 8), _mm256_srai_epi16(s, 8));
  return _mm256_add_epi32(acc, _mm256_add_epi32(even, odd));
}
PSI_INLINE vi dot4_u8s8(vi acc, vb u, vi s) {
  return {dot4_unsigned_half(acc.a, u.a, s.a), dot4_unsigned_half(acc.b, u.b, s.b)};
}
#endif

PSI_INLINE float hsum(vf x) {
  __m256 b = _mm256_add_ps(x.a, x.b);
  __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  c = _mm_add_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps(c, c, 1)));
}
PSI_INLINE float hmax(vf x) {
  __m256 b = _mm256_max_ps(x.a, x.b);
  __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  c = _mm_max_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_max_ss(c, _mm_shuffle_ps(c, c, 1)));
}
PSI_INLINE float hmin(vf x) {
  __m256 b = _mm256_min_ps(x.a, x.b);
  __m128 c = _mm_min_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  c = _mm_min_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_min_ss(c, _mm_shuffle_ps(c, c, 1)));
}
PSI_INLINE i32 hsumi(vi x) {
  __m256i b = _mm256_add_epi32(x.a, x.b);
  __m128i c = _mm_add_epi32(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1));
  c = _mm_add_epi32(c, _mm_shuffle_epi32(c, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(c, _mm_shuffle_epi32(c, 1)));
}
#undef PSI_F2
#undef PSI_I2
#undef PSI_B2
#undef PSI_COMPARE

}  // namespace psi::PSI_ISA
