/*
 * Weights as they lie in a file, one at a time: the integer code of a weight, and the numbers that make a value of it.
 * value = scale * code_value + offset, in f32 and in the order of kernels/cpu/dequantize.cpp, so bit for bit ggml's.
 */
#pragma once
#include "instructions.h"

namespace psi {

__device__ __forceinline__ u32 file_u16(const u8* p) { return p[0] | (u32)p[1] << 8; }
__device__ __forceinline__ float file_half(const u8* p) { return f16_value(file_u16(p)); }

__device__ __forceinline__ i32 iq4_level(u32 code) {
  const i8 levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
  return levels[code];
}
/* twice the e2m1 value */
__device__ __forceinline__ i32 fp4_level(u32 code) {
  i32 magnitude = (code & 7) < 4 ? code & 7 : (code & 7) == 7 ? 12 : 2 * (code & 7) - 4;
  return code & 8 ? -magnitude : magnitude;
}
/* 2^(e - 128), of which the two smallest are subnormal: half of MXFP4's scale, for twice its values */
__device__ __forceinline__ float fp4_scale(u32 e) { return __uint_as_float(e < 2 ? 0x00200000u << e : (e - 1) << 23); }

/* Six-bit scale and min number j of the 12 packed bytes of Q4_K and Q5_K. */
__device__ __forceinline__ u32 k_scale(const u8* s, int j) { return j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4; }
__device__ __forceinline__ u32 k_min(const u8* s, int j) { return j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | (s[j] >> 6) << 4; }
/* Six-bit scale number s of Q3_K, and j of IQ4_XS, from -32. */
__device__ __forceinline__ i32 q3_scale(const u8* b, int s) {
  u32 low = (s < 8 ? b[96 + s] : b[96 + s - 8] >> 4) & 15, high = b[104 + s % 4] >> (2 * (s / 4)) & 3;
  return (i32)(low | high << 4) - 32;
}
__device__ __forceinline__ i32 iq4_scale(const u8* b, int j) {
  return (i32)((b[4 + j / 2] >> (4 * (j % 2)) & 15) | (file_u16(b + 2) >> (2 * j) & 3) << 4) - 32;
}

/* The code of column k of the row at `row`: all its bits, not yet less the bias. */
__device__ inline u32 file_code(i32 dtype, const u8* row, i32 k) {
  const int i = k % 32, j = i % 16, shift = i / 16 * 4; /* 32-element types: low halves first */
  const int l = k % 256;
  switch (dtype) {
    case Q8_0: return row[k / 32 * 34 + 2 + i];
    case Q4_0: case IQ4_NL: return row[k / 32 * 18 + 2 + j] >> shift & 15;
    case Q4_1: return row[k / 32 * 20 + 4 + j] >> shift & 15;
    case Q5_0: {
      const u8* b = row + k / 32 * 22;
      return (b[6 + j] >> shift & 15) | (u32)(b[2 + i / 8] >> (i % 8) & 1) << 4;
    }
    case Q5_1: {
      const u8* b = row + k / 32 * 24;
      return (b[8 + j] >> shift & 15) | (u32)(b[4 + i / 8] >> (i % 8) & 1) << 4;
    }
    case MXFP4: return row[k / 32 * 17 + 1 + j] >> shift & 15;
    case Q2_K: return row[k / 256 * 84 + 16 + l / 128 * 32 + l % 32] >> (l % 128 / 32 * 2) & 3;
    case Q3_K: {
      const u8* b = row + k / 256 * 110;
      u32 low = b[32 + l / 128 * 32 + l % 32] >> (l % 128 / 32 * 2) & 3;
      return low | (u32)(b[l % 32] >> (l / 32) & 1) << 2;
    }
    case Q4_K: return row[k / 256 * 144 + 16 + l / 64 * 32 + l % 32] >> (l % 64 / 32 * 4) & 15;
    case Q5_K: {
      const u8* b = row + k / 256 * 176;
      return (b[48 + l / 64 * 32 + l % 32] >> (l % 64 / 32 * 4) & 15) | (u32)(b[16 + l % 32] >> (l / 32) & 1) << 4;
    }
    case Q6_K: {
      const u8* b = row + k / 256 * 210;
      u32 low = b[l / 128 * 64 + l % 64] >> (l % 128 / 64 * 4) & 15;
      return low | (u32)(b[128 + l / 128 * 32 + l % 32] >> (l % 128 / 32 * 2) & 3) << 4;
    }
    case IQ4_XS: return row[k / 256 * 136 + 8 + l / 32 * 16 + j] >> shift & 15;
  }
  return 0;
}

/* The value of column k. */
__device__ inline float file_value(i32 dtype, const u8* row, i32 k) {
  const int l = k % 256;
  u32 q = file_code(dtype, row, k);
  switch (dtype) {
    case F32: return __uint_as_float(file_u16(row + 4 * (i64)k) | file_u16(row + 4 * (i64)k + 2) << 16);
    case F16: return file_half(row + 2 * (i64)k);
    case BF16: return bf16_value(file_u16(row + 2 * (i64)k));
    case Q8_0: return file_half(row + k / 32 * 34) * (float)(i8)q;
    case Q4_0: return file_half(row + k / 32 * 18) * (float)((i32)q - 8);
    case Q4_1: return __fadd_rn(__fmul_rn(file_half(row + k / 32 * 20), (float)q), file_half(row + k / 32 * 20 + 2));
    case Q5_0: return file_half(row + k / 32 * 22) * (float)((i32)q - 16);
    case Q5_1: return __fadd_rn(__fmul_rn(file_half(row + k / 32 * 24), (float)q), file_half(row + k / 32 * 24 + 2));
    case IQ4_NL: return file_half(row + k / 32 * 18) * (float)iq4_level(q);
    case MXFP4: return fp4_scale(row[k / 32 * 17]) * (float)fp4_level(q);
    case Q2_K: {
      const u8* b = row + k / 256 * 84;
      u32 s = b[l / 16];
      float scale = __fmul_rn(file_half(b + 80), (float)(s & 15)), min = __fmul_rn(file_half(b + 82), (float)(s >> 4));
      return __fadd_rn(__fmul_rn(scale, (float)q), -min);
    }
    case Q3_K: {
      const u8* b = row + k / 256 * 110;
      return __fmul_rn(file_half(b + 108), (float)q3_scale(b, l / 16)) * (float)((i32)q - 4);
    }
    case Q4_K: case Q5_K: {
      const u8* b = row + k / 256 * (dtype == Q4_K ? 144 : 176);
      float scale = __fmul_rn(file_half(b), (float)k_scale(b + 4, l / 32)), min = __fmul_rn(file_half(b + 2), (float)k_min(b + 4, l / 32));
      return __fadd_rn(__fmul_rn(scale, (float)q), -min);
    }
    case Q6_K: {
      const u8* b = row + k / 256 * 210;
      return __fmul_rn(file_half(b + 208), (float)(i8)b[192 + l / 16]) * (float)((i32)q - 32);
    }
    case IQ4_XS: {
      const u8* b = row + k / 256 * 136;
      return __fmul_rn(file_half(b), (float)iq4_scale(b, l / 32)) * (float)iq4_level(q);
    }
  }
  return 0.0f;
}

}  // namespace psi
