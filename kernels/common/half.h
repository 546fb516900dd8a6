/* Scalar conversions between f32 and the 16-bit floats, bit-exact on every level: nearest even, subnormals kept. */
#pragma once
#include "isa.h"

namespace psi {

PSI_INLINE u32 f32_bits(float x) {
  u32 b;
  memcpy(&b, &x, 4);
  return b;
}
PSI_INLINE float bits_f32(u32 b) {
  float x;
  memcpy(&x, &b, 4);
  return x;
}
PSI_INLINE float f16_to_f32(u16 h) {
  u32 sign = (u32)(h & 0x8000) << 16;
  u32 exponent = (h >> 10) & 31;
  u32 mantissa = h & 0x3ff;
  if (exponent == 0) {
    float magnitude = (float)mantissa * 5.9604644775390625e-8f; /* 2^-24, exact */
    return bits_f32(f32_bits(magnitude) | sign);
  }
  if (exponent == 31) return bits_f32(sign | 0x7f800000 | (mantissa << 13) | (mantissa ? 0x400000 : 0));
  return bits_f32(sign | ((exponent + 112) << 23) | (mantissa << 13));
}
PSI_INLINE u16 f32_to_f16(float x) {
  u32 b = f32_bits(x);
  u16 sign = (u16)((b >> 16) & 0x8000);
  b &= 0x7fffffff;
  if (b > 0x7f800000) return (u16)(sign | 0x7e00 | ((b >> 13) & 0x1ff));
  if (b >= 0x47800000) return (u16)(sign | 0x7c00);
  if (b < 0x38800000) {
    /* adding 0.5 puts the subnormal's unit at the last place of the sum, so the addition rounds */
    float shifted = bits_f32(b) + 0.5f;
    return (u16)(sign | (f32_bits(shifted) - 0x3f000000));
  }
  u32 rounded = b + 0xfff + ((b >> 13) & 1);
  return (u16)(sign | ((rounded - 0x38000000) >> 13));
}
PSI_INLINE float bf16_to_f32(u16 h) { return bits_f32((u32)h << 16); }
PSI_INLINE u16 f32_to_bf16(float x) {
  u32 b = f32_bits(x);
  if ((b & 0x7fffffff) > 0x7f800000) return (u16)((b >> 16) | 0x40);
  return (u16)((b + 0x7fff + ((b >> 16) & 1)) >> 16);
}

}  // namespace psi
