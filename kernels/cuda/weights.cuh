/*
 * Packed weights on CUDA. A matrix [rows, columns] is ceil(rows / 16) tiles of 16 outputs, one after the other, each from
 * a multiple of 64 bytes. A tile is cut into units of 64 columns (the last filled up with zeros); a unit's weights lie in
 * the order of mma.m16n8k16's A fragments, so that a lane's part of a unit is read with few wide loads and multiplied
 * where it stands. A lane holds 32 weights of a unit, 8 for each of 4 steps of 16 columns: weight j is value j % 2 of
 * register a[j / 2] (instructions.h).
 *
 * In a tile, for all units one after the other, U = units:
 *   low codes    4 bits: [U][lane] 16 bytes, a word per step          8 bits: [U][2][lane] 16 bytes, two steps each
 *                2 bits: [U][lane] 8 bytes, 16 bits per step          bf16:   [U][step][lane] 16 bytes
 *   high bits    1: [U][lane] 4 bytes, a byte per step                2: [U][lane] 8 bytes, 16 bits per step
 *   scales       [U][row 16], as the type's Scales says; MXFP4 [U][row 8][row + 8][2]
 * A word of 4-bit codes has weight j in nibble 2j, j < 4, and 2(j - 4) + 1 above, so that the codes of four weights
 * become bytes with one mask; MXFP4's word is its own.
 *
 * A type is a struct: Raw, the registers of a lane's part of a unit; tile_bytes; load; fragment, which gives bf16
 * fragments of step 0..3. A weight's value is the f32 value of file_block.cuh, rounded once to bf16. PARTS: how many bf16
 * values stand for one of x in its products (round.cuh); a unit's sum takes all steps with the first, then all with the second.
 */
#pragma once
#include "instructions.h"

namespace psi {

__host__ __device__ constexpr i64 aligned64(i64 bytes) { return (bytes + 63) & ~(i64)63; }

/* Four codes, one a byte, as floats; exact. */
__device__ __forceinline__ float code_float(u32 bytes, int i) {
  return __uint_as_float(byte_permute(bytes, 0x4b000000u, 0x7540u | (u32)i));
}
/* The same plus 32768: with scale and offset one fused operation, and exact where 32768 + bias times the scale is. */
__device__ __forceinline__ float code_float_32768(u32 bytes, int i) {
  return __uint_as_float(byte_permute(bytes, 0x47000000u, 0x7404u | (u32)i << 4));
}
/* Spreads 4 x 1 and 4 x 2 bits to bytes. */
__device__ __forceinline__ u32 spread1(u32 bits) { return (bits & 15) * 0x00204081u & 0x01010101u; }
__device__ __forceinline__ u32 spread2(u32 bits) {
  bits &= 255;
  return (bits | bits << 6 | bits << 12 | bits << 18) & 0x03030303u;
}

/* ---- scales: of rows g and g + 8, g = lane / 4, for a unit ---- */

/* f16 [2]: one per 32 columns. */
struct ScalesHalf {
  static constexpr int BYTES = 4;
  static constexpr bool MINS = false, SHORT = true; /* SHORT: scales of 11 bits */
  u32 d[2];
  template <bool SHARED>
  __device__ __forceinline__ void load(const u8* unit, const u8*, i32 lane) {
    d[0] = load_part4<SHARED>(unit + lane / 4 * 4);
    d[1] = load_part4<SHARED>(unit + lane / 4 * 4 + 32);
  }
  __device__ __forceinline__ float scale(int step, int r) const { return step < 2 ? f16_low(d[r]) : f16_high(d[r]); }
  __device__ __forceinline__ float min(int, int) const { return 0.0f; }
};
/* f16 [2] d, then m: w = d q + m */
struct ScalesHalfMin {
  static constexpr int BYTES = 8;
  static constexpr bool MINS = true, SHORT = false;
  uint2 d[2];
  template <bool SHARED>
  __device__ __forceinline__ void load(const u8* unit, const u8*, i32 lane) {
    d[0] = load_part8<SHARED>(unit + lane / 4 * 8);
    d[1] = load_part8<SHARED>(unit + lane / 4 * 8 + 64);
  }
  __device__ __forceinline__ float scale(int step, int r) const { return step < 2 ? f16_low(d[r].x) : f16_high(d[r].x); }
  __device__ __forceinline__ float min(int step, int r) const { return step < 2 ? f16_low(d[r].y) : f16_high(d[r].y); }
};
/* Records of 256 columns. Per row and unit one word of small integers; per row and 4 units, after all of them, f16 d, dmin.
   EACH 16: a scale per step. SIGNED: i8. NIBBLES: low half scale, high half min. Else u8 pairs (scale, min). */
template <bool EACH16, bool SIGNED, bool MINS_>
struct ScalesRecord {
  static constexpr int BYTES = 4;
  static constexpr bool MINS = MINS_, SHORT = false;
  u32 small[2], d[2];
  template <bool SHARED>
  __device__ __forceinline__ void load(const u8* unit, const u8* record, i32 lane) {
    small[0] = load_part4<SHARED>(unit + lane / 4 * 4);
    small[1] = load_part4<SHARED>(unit + lane / 4 * 4 + 32);
    d[0] = load_part4<SHARED>(record + lane / 4 * 4);
    d[1] = load_part4<SHARED>(record + lane / 4 * 4 + 32);
  }
  __device__ __forceinline__ u32 byte(int i, int r) const { return small[r] >> (8 * i) & 255; }
  __device__ __forceinline__ float scale(int step, int r) const {
    u32 s = EACH16 ? byte(step, r) : byte(step / 2 * 2, r);
    if (EACH16 && MINS) s &= 15;
    return __fmul_rn(f16_low(d[r]), SIGNED ? (float)(i8)s : (float)s);
  }
  __device__ __forceinline__ float min(int step, int r) const {
    u32 m = EACH16 ? byte(step, r) >> 4 : byte(step / 2 * 2 + 1, r);
    return -__fmul_rn(f16_high(d[r]), (float)m);
  }
};

/* ---- integer codes ---- */

template <int ID_, int LOW_, int HIGH_, int BIAS, bool LEVELS, class Scales_, bool RECORDS_>
struct CodedWeight {
  using Scales = Scales_;
  static constexpr int ID = ID_, PARTS = 1, LOW = LOW_, HIGH = HIGH_;
  static constexpr bool RECORDS = RECORDS_;
  static constexpr int LOW_BYTES = 64 * 16 * LOW / 8, HIGH_BYTES = 64 * 16 * HIGH / 8, SCALE_BYTES = 16 * Scales::BYTES; /* of a unit */
  struct Raw {
    u32 low[LOW], high[HIGH > 0 ? HIGH : 1];
    Scales scales;
  };
  __host__ __device__ static i64 scales_at(i32 units) { return (i64)units * (LOW_BYTES + HIGH_BYTES); }
  __host__ __device__ static i64 records_at(i32 units) { return scales_at(units) + (i64)units * SCALE_BYTES; }
  __host__ __device__ static i64 tile_bytes(i32 units) { return aligned64(records_at(units) + (RECORDS ? (i64)PSI_DIVIDE_UP(units, 4) * 64 : 0)); }

  /* RECORDS: the units share one. Where units first ... first + count - 1 lie in a tile and go in one of `room` units that begins with them: piece(from, to, bytes). */
  template <class F>
  __device__ __forceinline__ static void pieces(i32 units, i32 first, i32 count, i32 room, F&& piece) {
    piece((i64)first * LOW_BYTES, (i64)0, count * LOW_BYTES);
    if constexpr (HIGH > 0) piece((i64)units * LOW_BYTES + (i64)first * HIGH_BYTES, (i64)room * LOW_BYTES, count * HIGH_BYTES);
    piece(scales_at(units) + (i64)first * SCALE_BYTES, scales_at(room), count * SCALE_BYTES);
    if constexpr (RECORDS) piece(records_at(units) + (i64)(first / 4) * 64, records_at(room), 64);
  }
  template <bool SHARED = false>
  __device__ __forceinline__ static void load(Raw& r, const u8* tile, i32 units, i32 unit, i32 lane) {
    const u8* low = tile + (i64)unit * LOW_BYTES;
    if constexpr (LOW == 2) {
      uint2 v = load_part8<SHARED>(low + lane * 8);
      r.low[0] = v.x, r.low[1] = v.y;
    } else {
#pragma unroll
      for (int i = 0; i < LOW / 4; i++) {
        uint4 v = load_part16<SHARED>(low + i * 512 + lane * 16);
        r.low[4 * i] = v.x, r.low[4 * i + 1] = v.y, r.low[4 * i + 2] = v.z, r.low[4 * i + 3] = v.w;
      }
    }
    const u8* high = tile + (i64)units * LOW_BYTES + (i64)unit * HIGH_BYTES;
    if constexpr (HIGH == 1) r.high[0] = load_part4<SHARED>(high + lane * 4);
    if constexpr (HIGH == 2) {
      uint2 v = load_part8<SHARED>(high + lane * 8);
      r.high[0] = v.x, r.high[1] = v.y;
    }
    r.scales.template load<SHARED>(tile + scales_at(units) + (i64)unit * SCALE_BYTES, tile + records_at(units) + (i64)(unit / 4) * 64, lane);
  }

  /* Codes of weights 4 half .. 4 half + 3 of a step, one a byte. */
  __device__ __forceinline__ static u32 codes(const Raw& r, int step, int half) {
    u32 c;
    if constexpr (LOW == 8) c = r.low[2 * step + half];
    if constexpr (LOW == 4) c = r.low[step] >> (4 * half) & 0x0f0f0f0fu;
    if constexpr (LOW == 2) c = spread2(r.low[step / 2] >> (16 * (step % 2) + 8 * half));
    if constexpr (HIGH == 1) c |= spread1(r.high[0] >> (8 * step + 4 * half)) << LOW;
    if constexpr (HIGH == 2) c |= spread2(r.high[step / 2] >> (16 * (step % 2) + 8 * half)) << LOW;
    return c;
  }
  /* Levels of IQ4 by their code, plus 128: a table of 16 bytes in four words. */
  __device__ __forceinline__ static u32 levels(u32 c) {
    u32 selector = c & 0x07070707u;
    selector = (selector & 0xff) | (selector >> 4 & 0xf0) | (selector >> 8 & 0xf00) | (selector >> 12 & 0xf000);
    u32 first = byte_permute(0x3f2d1801u, 0x766a5d4fu, selector), second = byte_permute(0xa6998d81u, 0xf1d9c5b5u, selector);
    u32 upper = (c >> 3 & 0x01010101u) * 255;
    return (first & ~upper) | (second & upper);
  }

  __device__ __forceinline__ static void fragment(const Raw& r, int step, u32* a) {
    constexpr float bias = LOW == 8 || LEVELS ? 128 : BIAS;
    float scale[2], min[2];
#pragma unroll
    for (int row = 0; row < 2; row++) {
      scale[row] = r.scales.scale(step, row);
      min[row] = Scales::MINS ? r.scales.min(step, row) : Scales::SHORT ? __fmul_rn(-(32768.0f + bias), scale[row]) : 0.0f;
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      u32 c = codes(r, step, half);
      if constexpr (LEVELS) c = levels(c);
      if constexpr (LOW == 8) c ^= 0x80808080u; /* signed bytes */
#pragma unroll
      for (int row = 0; row < 2; row++) { /* a[2 half + row] */
        float v[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
          if constexpr (Scales::SHORT) v[i] = fmaf(code_float_32768(c, 2 * row + i), scale[row], min[row]);
          else v[i] = __fmul_rn(scale[row], code_float(c, 2 * row + i) - (8388608.0f + bias));
          if constexpr (Scales::MINS) v[i] = __fadd_rn(v[i], min[row]);
        }
        a[2 * half + row] = pack_bf16(v[0], v[1]);
      }
    }
  }
};

using WeightQ8_0 = CodedWeight<Q8_0, 8, 0, 0, false, ScalesHalf, false>;
using WeightQ4_0 = CodedWeight<Q4_0, 4, 0, 8, false, ScalesHalf, false>;
using WeightQ4_1 = CodedWeight<Q4_1, 4, 0, 0, false, ScalesHalfMin, false>;
using WeightQ5_0 = CodedWeight<Q5_0, 4, 1, 16, false, ScalesHalf, false>;
using WeightQ5_1 = CodedWeight<Q5_1, 4, 1, 0, false, ScalesHalfMin, false>;
using WeightIQ4_NL = CodedWeight<IQ4_NL, 4, 0, 0, true, ScalesHalf, false>;
using WeightQ2_K = CodedWeight<Q2_K, 2, 0, 0, false, ScalesRecord<true, false, true>, true>;
using WeightQ3_K = CodedWeight<Q3_K, 2, 1, 4, false, ScalesRecord<true, true, false>, true>;
using WeightQ4_K = CodedWeight<Q4_K, 4, 0, 0, false, ScalesRecord<false, false, true>, true>;
using WeightQ5_K = CodedWeight<Q5_K, 4, 1, 0, false, ScalesRecord<false, false, true>, true>;
using WeightQ6_K = CodedWeight<Q6_K, 4, 2, 32, false, ScalesRecord<true, true, false>, true>;
using WeightIQ4_XS = CodedWeight<IQ4_XS, 4, 0, 0, true, ScalesRecord<false, true, false>, true>;

/* ---- MXFP4: e2m1 codes, a power of two per 32 columns ---- */

/*
 * An e2m1 code at a bf16's exponent and highest mantissa bit is its value times 2^-126, so 2^(e - 1) times that is the
 * weight. A word holds the codes so that few instructions move them there, those of shifts to the left above all; bits of
 * the lower half, the same in the upper one for the second weight of each pair:
 *   a[0]: magnitude 0..2, sign 9    a[1]: 3..5, 12    a[2]: 6..8, 11    a[3]: 13..15, 10
 * The scale byte is the exponent of 2^(e - 1) as bf16 has it, e + 126, where that is at most 254. Larger scales are stored
 * as e - 129 and take two multiplications, the second by half the scale. e = 0 counts as 1 (weights of at most 6 * 2^-127
 * come out doubled).
 */
struct WeightMXFP4 {
  static constexpr int ID = MXFP4, PARTS = 1;
  static constexpr bool RECORDS = false;
  static constexpr int CODE_BYTES = 512, SCALE_BYTES = 32; /* of a unit */
  struct Raw {
    u32 code[4];
    u32 scale; /* a byte per 32 columns: two of row g, two of row g + 8 */
  };
  __host__ __device__ static i64 scales_at(i32 units) { return (i64)units * CODE_BYTES; }
  __host__ __device__ static i64 tile_bytes(i32 units) { return aligned64((i64)units * (CODE_BYTES + SCALE_BYTES)); }
  /* Where code `j` of a step's word stands: its magnitude's lowest bit, its sign. */
  __device__ static int magnitude_bit(int j) { return (j / 2 < 3 ? 3 * (j / 2) : 13) + 16 * (j % 2); }
  __device__ static int sign_bit(int j) { return (0xabc9 >> (4 * (j / 2)) & 15) + 16 * (j % 2); }
  __device__ static u32 scale_byte(u32 e) { return (max(e, 1u) + 126) % 255; }

  /* Where units first ... first + count - 1 lie in a tile and go in one of `room` units that begins with them: piece(from, to, bytes). */
  template <class F>
  __device__ __forceinline__ static void pieces(i32 units, i32 first, i32 count, i32 room, F&& piece) {
    piece((i64)first * CODE_BYTES, (i64)0, count * CODE_BYTES);
    piece(scales_at(units) + (i64)first * SCALE_BYTES, scales_at(room), count * SCALE_BYTES);
  }
  template <bool SHARED = false>
  __device__ __forceinline__ static void load(Raw& r, const u8* tile, i32 units, i32 unit, i32 lane) {
    uint4 v = load_part16<SHARED>(tile + (i64)unit * CODE_BYTES + lane * 16);
    r.code[0] = v.x, r.code[1] = v.y, r.code[2] = v.z, r.code[3] = v.w;
    r.scale = load_part4<SHARED>(tile + scales_at(units) + (i64)unit * SCALE_BYTES + lane / 4 * 4);
  }
  /* Whether some scale takes two multiplications; a kernel that is short of instructions asks once per unit. */
  __device__ __forceinline__ static bool is_wide(const Raw& r) { return (~r.scale & 0x80808080u) != 0; }
  /* The same of a lane's part of a unit in shared memory. */
  __device__ __forceinline__ static bool is_wide(const u8* tile, i32 units, i32 unit, i32 lane) {
    return (~*(const u32*)(tile + scales_at(units) + (i64)unit * SCALE_BYTES + lane / 4 * 4) & 0x80808080u) != 0;
  }
  __device__ __forceinline__ static void fragment(const Raw& r, int step, u32* a) { fragment(r, step, a, is_wide(r)); }
  __device__ __forceinline__ static void fragment(const Raw& r, int step, u32* a, bool wide) {
    constexpr u32 MAGNITUDE = 0x01c001c0u, SIGN = 0x80008000u;
    const u32 c = r.code[step];
    a[0] = c << 6 & (MAGNITUDE | SIGN);
    a[1] = c << 3 & (MAGNITUDE | SIGN);
    a[2] = (c & MAGNITUDE) | (c << 4 & SIGN);
    a[3] = (c >> 7 & MAGNITUDE) | (c << 5 & SIGN);
    u32 power[2];
#pragma unroll
    for (int row = 0; row < 2; row++) power[row] = byte_permute(r.scale, 0, 0x4040u | (u32)(row * 2 + step / 2) * 0x0101u) << 7;
    if (wide) {
#pragma unroll
      for (int row = 0; row < 2; row++) {
        u32 stored = power[row] >> 7 & 255, e = stored < 127 ? stored + 129 : stored - 126;
        power[row] = e == 1 ? 0x00400040u : (e - 1) * 0x00800080u; /* half the scale, 2^(e - 128); that of 1 is subnormal */
        a[row] = mul_bf16x2(a[row], 0x7f007f00u);
        a[row + 2] = mul_bf16x2(a[row + 2], 0x7f007f00u);
      }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) a[i] = mul_bf16x2(a[i], power[i % 2]);
  }
};

/*
 * ---- 16-bit floats: bf16, to which F16 is rounded when packed ----
 *
 * Whoever keeps such weights wants the model as it was trained: x is not rounded to 8 bits but taken in two parts.
 */

template <int ID_>
struct FloatWeight {
  static constexpr int ID = ID_, PARTS = 2;
  static constexpr bool RECORDS = false;
  static constexpr int CODE_BYTES = 2048;
  struct Raw {
    u32 pair[16];
  };
  __host__ __device__ static i64 tile_bytes(i32 units) { return (i64)units * CODE_BYTES; }
  /* Where units first ... first + count - 1 lie in a tile and go in one of `room` units that begins with them: piece(from, to, bytes). */
  template <class F>
  __device__ __forceinline__ static void pieces(i32, i32 first, i32 count, i32, F&& piece) {
    piece((i64)first * CODE_BYTES, (i64)0, count * CODE_BYTES);
  }
  template <bool SHARED = false>
  __device__ __forceinline__ static void load(Raw& r, const u8* tile, i32, i32 unit, i32 lane) {
#pragma unroll
    for (int step = 0; step < 4; step++) {
      uint4 v = load_part16<SHARED>(tile + (i64)unit * CODE_BYTES + step * 512 + lane * 16);
      r.pair[4 * step] = v.x, r.pair[4 * step + 1] = v.y, r.pair[4 * step + 2] = v.z, r.pair[4 * step + 3] = v.w;
    }
  }
  __device__ __forceinline__ static void fragment(const Raw& r, int step, u32* a) {
#pragma unroll
    for (int i = 0; i < 4; i++) a[i] = r.pair[4 * step + i];
  }
};
using WeightBF16 = FloatWeight<BF16>;
using WeightF16 = FloatWeight<F16>;

/* Calls body with the struct of a type; F32 and F64 are not among them. */
template <class F>
i32 with_weight_type(const char* where, i32 dtype, F&& body) {
  switch (dtype) {
    case BF16: return body(WeightBF16{});
    case F16: return body(WeightF16{});
    case MXFP4: return body(WeightMXFP4{});
    case Q8_0: return body(WeightQ8_0{});
    case Q4_0: return body(WeightQ4_0{});
    case Q4_1: return body(WeightQ4_1{});
    case Q5_0: return body(WeightQ5_0{});
    case Q5_1: return body(WeightQ5_1{});
    case IQ4_NL: return body(WeightIQ4_NL{});
    case Q2_K: return body(WeightQ2_K{});
    case Q3_K: return body(WeightQ3_K{});
    case Q4_K: return body(WeightQ4_K{});
    case Q5_K: return body(WeightQ5_K{});
    case Q6_K: return body(WeightQ6_K{});
    case IQ4_XS: return body(WeightIQ4_XS{});
  }
  return fail(PSI_UNSUPPORTED, "[%s] expected a weight type that CUDA has products for, got id %d.", where, dtype);
}

}  // namespace psi
