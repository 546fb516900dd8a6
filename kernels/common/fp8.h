/*
 * e4m3, the cache's type of 8 bits: a sign, 4 bits of exponent (bias 7), 3 of mantissa, subnormals in steps of 2^-9; no
 * infinities, 0x7f and 0xff are NaN, the largest is 448. Into it: nearest even, larger sizes become 448, NaN stays NaN.
 */
#pragma once
#include "fp8_type.h"
#include "half.h"

namespace psi {

PSI_INLINE float e4m3_to_f32(u8 code) {
  const u32 sign = (u32)(code & 0x80) << 24, size = code & 0x7f;
  if (size == 0x7f) return bits_f32(sign | 0x7fc00000);
  /* its bits as those of an f32 are 2^-120 of it, subnormals too */
  return bits_f32(size << 20 | sign) * 1.329227995784916e36f; /* 2^120 */
}

PSI_INLINE u8 f32_to_e4m3(float x) {
  const u32 b = f32_bits(x), sign = b >> 24 & 0x80, size = b & 0x7fffffff;
  if (size > 0x7f800000) return (u8)(sign | 0x7f);
  if (size >= 0x43e00000) return (u8)(sign | 0x7e); /* 448 */
  if (size < 0x3c800000) {                          /* 2^-6 */
    /* 2^14 is added, whose last place is the subnormal's unit, so the addition rounds */
    return (u8)(sign | (f32_bits(bits_f32(size) + 16384.0f) - 0x46800000));
  }
  return (u8)(sign | (((size + 0x7ffff + (size >> 20 & 1)) >> 20) - (120 << 3)));
}

}  // namespace psi
