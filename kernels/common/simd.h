/*
 * Vectors of 16 lanes, the same functions on every level (namespace psi::PSI_ISA).
 *
 *   vf   16 x f32        load store load_n store_n set1 zero + - * / fma max min abs sqrt round
 *   vi   16 x i32        loadi storei set1i zeroi addi subi muli andi shli<n> shri<n> sari<n> maxi mini
 *   vb   64 bytes        loadb andb orb xorb shrb<n> (within 32-bit lanes; mask afterwards) lookup16 set1b
 *   vm   16 truth values gt ge lt eq on vf; eqi on vi; select(m, a, b) = m ? a : b
 *   conversions          cvt(vi) -> vf; cvt_round(vf) -> vi nearest even; bits(vf) <-> floats(vi)
 *   16 smaller elements  load_f16 store_f16 load_bf16 store_bf16 (nearest even), load_u8 load_s8 -> vi, store_s8(vi)
 *   products             dot4_u8s8(acc, vb u8, vi s8x4): acc[i] += sum_j u8[4i+j] * s8[4i+j], exact
 *                        dot4_u7s8: the same where every u8 <= 127; dot4_s8s8: both signed, |s8| <= 127 on the right
 *                        where WORD_SUMS: word_products(vb u8, vi s8x4), sums of two in i16, while they fit cheaper to add
 *                        up (add_words) before they join the 32-bit sums (add_word_pairs(acc, words))
 *   across lanes         hsum hmax hmin hsumi: one fixed tree (8, 4, 2, 1 apart), the same order on every level
 *   functions            exp (about 1 ulp)
 *
 * max(a, b) is a > b ? a : b and min(a, b) is a < b ? a : b, so a NaN in a yields b; put the value that may be NaN
 * second to keep it. fma(a, b, c) = a*b + c, fused except on the plain level.
 */
#pragma once
#include <utility>

#include "isa.h"

#ifndef PSI_ISA
#error "compile through kernels/build.ts, which sets PSI_ISA"
#endif

#if defined(__AVX512VNNI__)
#include "simd_avx512.h"
#elif defined(__AVX2__)
#include "simd_avx2.h"
#elif defined(__ARM_FEATURE_DOTPROD)
#include "simd_neon.h"
#else
#include "simd_plain.h"
#endif

namespace psi::PSI_ISA {

/*
 * unroll<N>([&](auto i) PSI_LAMBDA { constexpr int I = i; ... }) repeats its body at compile time. Arrays of vectors
 * indexed this way stay in registers; with an unrolled `for` the compiler keeps copies in memory.
 */
#define PSI_LAMBDA __attribute__((always_inline))
template <int I> struct Index {
  constexpr operator int() const { return I; }
};
template <class F, int... I>
PSI_INLINE void unroll_over(F&& f, std::integer_sequence<int, I...>) { (f(Index<I>{}), ...); }
template <int N, class F>
PSI_INLINE void unroll(F&& f) { unroll_over(f, std::make_integer_sequence<int, N>{}); }

#ifndef PSI_NATIVE_OPERATORS
PSI_INLINE vf operator+(vf a, vf b) { return add(a, b); }
PSI_INLINE vf operator-(vf a, vf b) { return sub(a, b); }
PSI_INLINE vf operator*(vf a, vf b) { return mul(a, b); }
PSI_INLINE vf operator/(vf a, vf b) { return div(a, b); }
#endif

/* e^x: n = round(x log2 e), r = x - n ln 2, a degree-7 polynomial, then two exact scalings by powers of two. */
PSI_INLINE vf exp(vf x) {
  x = min(set1(100.0f), max(set1(-104.0f), x));
  vf n = round(x * set1(1.44269504088896341f));
  vf r = fma(n, set1(-0.693359375f), x);
  r = fma(n, set1(2.12194440e-4f), r);
  vf p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = fma(p, r * r, r) + set1(1.0f);
  vi whole = cvt_round(n);
  vi half = sari<1>(whole);
  vi rest = subi(whole, half);
  vf scale_half = floats(shli<23>(addi(half, set1i(127))));
  vf scale_rest = floats(shli<23>(addi(rest, set1i(127))));
  return p * scale_half * scale_rest;
}

}  // namespace psi::PSI_ISA
