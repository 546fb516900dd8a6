/*
 * Weights in file layout, in kernels: rows of blocks one after the other, each row right after the one before. A type is
 * a struct with
 *   COLUMNS, BYTES   of a block
 *   values(row, group, columns, v)   v[0..15] = columns 16*group .. 16*group+15 of a row that begins at `row`; what lies
 *                                    past `columns` is 0 (only rows of float types end inside of a group)
 * Values are those of ggml, bit for bit: products and differences in f32, in the order of kernels/cpu/dequantize.cpp.
 *
 * Alignment: a block begins at a multiple of 2 (Q2_K, Q4_K, Q5_K, IQ4_XS: of 4; MXFP4: of 1), never more. Read no wider words.
 */
#pragma once
#include <metal_stdlib>
#include "types.h"
using namespace metal;

#define PSI_STRING(name) #name

typedef device const uchar* Bytes;

static inline uint load2(Bytes p) { return *(device const ushort*)p; }
static inline uint load4(Bytes p) { return load2(p) | load2(p + 2) << 16; }
static inline float load_half(Bytes p) { return float(*(device const half*)p); }
static inline float bf16_value(uint bits) { return as_type<float>(bits << 16); }
/* the nearest bf16, ties to even; NaN stays one */
static inline uint bf16_bits(float x) {
  uint u = as_type<uint>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return u >> 16 | 64;
  return (u + 0x7fffu + (u >> 16 & 1)) >> 16;
}

static constant float IQ4_LEVELS[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
/* twice the values of E2M1 */
static constant float FP4_LEVELS[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
/* 2^(e-128), the two smallest as subnormals: E8M0 for twice the value of E2M1 */
static inline float mxfp4_scale(uint e) { return as_type<float>(e < 2 ? 0x00200000u << e : (e - 1) << 23); }

struct WeightF32 {
  enum { ID = PSI_F32, COLUMNS = 1, BYTES = 4 };
  static void values(Bytes row, uint group, uint columns, thread float* v) {
    device const float* x = (device const float*)row + 16 * group;
    for (uint i = 0; i < 16; i++) v[i] = 16 * group + i < columns ? x[i] : 0.0f;
  }
};
struct WeightF16 {
  enum { ID = PSI_F16, COLUMNS = 1, BYTES = 2 };
  static void values(Bytes row, uint group, uint columns, thread float* v) {
    device const half* x = (device const half*)row + 16 * group;
    for (uint i = 0; i < 16; i++) v[i] = 16 * group + i < columns ? float(x[i]) : 0.0f;
  }
};
struct WeightBF16 {
  enum { ID = PSI_BF16, COLUMNS = 1, BYTES = 2 };
  static void values(Bytes row, uint group, uint columns, thread float* v) {
    device const ushort* x = (device const ushort*)row + 16 * group;
    for (uint i = 0; i < 16; i++) v[i] = 16 * group + i < columns ? bf16_value(x[i]) : 0.0f;
  }
};
struct WeightQ8_0 {
  enum { ID = PSI_Q8_0, COLUMNS = 32, BYTES = 34 };
  static void values(Bytes row, uint group, uint, thread float* v) {
    Bytes b = row + group / 2 * BYTES;
    float d = load_half(b);
    for (uint i = 0; i < 8; i++) {
      uint q = load2(b + 2 + group % 2 * 16 + 2 * i);
      v[2 * i] = d * float(char(q & 255));
      v[2 * i + 1] = d * float(char(q >> 8));
    }
  }
};
/* 16 nibbles from 16 bytes that begin at p, of their low or high half */
static inline void nibbles(Bytes p, bool high, thread uint* q) {
  uint shift = high ? 4 : 0;
  for (uint i = 0; i < 8; i++) {
    uint two = load2(p + 2 * i) >> shift;
    q[2 * i] = two & 15;
    q[2 * i + 1] = two >> 8 & 15;
  }
}
struct WeightQ4_0 {
  enum { ID = PSI_Q4_0, COLUMNS = 32, BYTES = 18 };
  static void values(Bytes row, uint group, uint, thread float* v) {
    Bytes b = row + group / 2 * BYTES;
    float d = load_half(b);
    uint q[16];
    nibbles(b + 2, group % 2 == 1, q);
    for (uint i = 0; i < 16; i++) v[i] = d * float(int(q[i]) - 8);
  }
};
struct WeightQ4_1 {
  enum { ID = PSI_Q4_1, COLUMNS = 32, BYTES = 20 };
  static void values(Bytes row, uint group, uint, thread float* v) {
    Bytes b = row + group / 2 * BYTES;
    float d = load_half(b), m = load_half(b + 2);
    uint q[16];
    nibbles(b + 4, group % 2 == 1, q);
    for (uint i = 0; i < 16; i++) v[i] = d * float(q[i]) + m;
  }
};
struct WeightQ5_0 {
  enum { ID = PSI_Q5_0, COLUMNS = 32, BYTES = 22 };
  static void values(Bytes row, uint group, uint, thread float* v) {
    Bytes b = row + group / 2 * BYTES;
    float d = load_half(b);
    uint high = load4(b + 2) >> (group % 2 * 16);
    uint q[16];
    nibbles(b + 6, group % 2 == 1, q);
    for (uint i = 0; i < 16; i++) v[i] = d * float(int(q[i] | (high >> i & 1) << 4) - 16);
  }
};
struct WeightQ5_1 {
  enum { ID = PSI_Q5_1, COLUMNS = 32, BYTES = 24 };
  static void values(Bytes row, uint group, uint, thread float* v) {
    Bytes b = row + group / 2 * BYTES;
    float d = load_half(b), m = load_half(b + 2);
    uint high = load4(b + 4) >> (group % 2 * 16);
    uint q[16];
    nibbles(b + 8, group % 2 == 1, q);
    for (uint i = 0; i < 16; i++) v[i] = d * float(q[i] | (high >> i & 1) << 4) + m;
  }
};
struct WeightIQ4_NL {
  enum { ID = PSI_IQ4_NL, COLUMNS = 32, BYTES = 18 };
  static void values(Bytes row, uint group, uint, thread float* v) {
    Bytes b = row + group / 2 * BYTES;
    float d = load_half(b);
    uint q[16];
    nibbles(b + 2, group % 2 == 1, q);
    for (uint i = 0; i < 16; i++) v[i] = d * IQ4_LEVELS[q[i]];
  }
};
struct WeightMXFP4 {
  enum { ID = PSI_MXFP4, COLUMNS = 32, BYTES = 17 };
  static void values(Bytes row, uint group, uint, thread float* v) {
    Bytes b = row + group / 2 * BYTES;
    float d = mxfp4_scale(b[0]);
    uint shift = group % 2 * 4;
    for (uint i = 0; i < 16; i++) v[i] = d * FP4_LEVELS[b[1 + i] >> shift & 15];
  }
};
struct WeightQ2_K {
  enum { ID = PSI_Q2_K, COLUMNS = 256, BYTES = 84 };
  static void values(Bytes row, uint group, uint, thread float* v) {
    Bytes b = row + group / 16 * BYTES;
    uint s = group % 16, shift = s / 2 % 4 * 2;
    float scale = load_half(b + 80) * float(b[s] & 15), least = load_half(b + 82) * float(b[s] >> 4);
    Bytes q = b + 16 + s / 8 * 32 + s % 2 * 16;
    for (uint i = 0; i < 8; i++) {
      uint two = load2(q + 2 * i) >> shift;
      v[2 * i] = scale * float(two & 3) - least;
      v[2 * i + 1] = scale * float(two >> 8 & 3) - least;
    }
  }
};
struct WeightQ3_K {
  enum { ID = PSI_Q3_K, COLUMNS = 256, BYTES = 110 };
  static void values(Bytes row, uint group, uint, thread float* v) {
    Bytes b = row + group / 16 * BYTES;
    uint s = group % 16, h = s / 8, j = s / 2 % 4, p = s % 2;
    uint low = (s < 8 ? uint(b[96 + s]) : uint(b[96 + s - 8]) >> 4) & 15;
    uint high = uint(b[104 + s % 4]) >> (2 * (s / 4)) & 3;
    float scale = load_half(b + 108) * float(int(low | high << 4) - 32);
    for (uint i = 0; i < 8; i++) {
      uint two = load2(b + 32 + 32 * h + 16 * p + 2 * i) >> (2 * j), bits = load2(b + 16 * p + 2 * i) >> (4 * h + j);
      v[2 * i] = scale * float(int(two & 3) - ((bits & 1) != 0 ? 0 : 4));
      v[2 * i + 1] = scale * float(int(two >> 8 & 3) - ((bits >> 8 & 1) != 0 ? 0 : 4));
    }
  }
};
/* scale and min number j of the 12 packed bytes of Q4_K and Q5_K */
static inline uint2 scale_and_min(Bytes s, uint j) {
  if (j < 4) return uint2(s[j] & 63, s[j + 4] & 63);
  return uint2((s[j + 4] & 15) | (s[j - 4] >> 6) << 4, (s[j + 4] >> 4) | (s[j] >> 6) << 4);
}
struct WeightQ4_K {
  enum { ID = PSI_Q4_K, COLUMNS = 256, BYTES = 144 };
  static void values(Bytes row, uint group, uint, thread float* v) {
    Bytes b = row + group / 16 * BYTES;
    uint j = group % 16 / 2;
    uint2 sm = scale_and_min(b + 4, j);
    float scale = load_half(b) * float(sm.x), least = load_half(b + 2) * float(sm.y);
    uint q[16];
    nibbles(b + 16 + 32 * (j / 2) + group % 2 * 16, j % 2 == 1, q);
    for (uint i = 0; i < 16; i++) v[i] = scale * float(q[i]) - least;
  }
};
struct WeightQ5_K {
  enum { ID = PSI_Q5_K, COLUMNS = 256, BYTES = 176 };
  static void values(Bytes row, uint group, uint, thread float* v) {
    Bytes b = row + group / 16 * BYTES;
    uint j = group % 16 / 2;
    uint2 sm = scale_and_min(b + 4, j);
    float scale = load_half(b) * float(sm.x), least = load_half(b + 2) * float(sm.y);
    uint q[16];
    nibbles(b + 48 + 32 * (j / 2) + group % 2 * 16, j % 2 == 1, q);
    Bytes high = b + 16 + group % 2 * 16;
    for (uint i = 0; i < 16; i++) v[i] = scale * float(q[i] | (uint(high[i]) >> j & 1) << 4) - least;
  }
};
struct WeightQ6_K {
  enum { ID = PSI_Q6_K, COLUMNS = 256, BYTES = 210 };
  static void values(Bytes row, uint group, uint, thread float* v) {
    Bytes b = row + group / 16 * BYTES;
    uint s = group % 16, h = s / 8, part = s / 2 % 4, from = 16 * (s % 2);
    float scale = load_half(b + 208) * float(char(b[192 + s]));
    Bytes low = b + 64 * h + 32 * (part % 2) + from, high = b + 128 + 32 * h + from;
    for (uint i = 0; i < 8; i++) {
      uint l = load2(low + 2 * i) >> (part / 2 * 4), t = load2(high + 2 * i) >> (2 * part);
      v[2 * i] = scale * float(int((l & 15) | (t & 3) << 4) - 32);
      v[2 * i + 1] = scale * float(int((l >> 8 & 15) | (t >> 8 & 3) << 4) - 32);
    }
  }
};
struct WeightIQ4_XS {
  enum { ID = PSI_IQ4_XS, COLUMNS = 256, BYTES = 136 };
  static void values(Bytes row, uint group, uint, thread float* v) {
    Bytes b = row + group / 16 * BYTES;
    uint j = group % 16 / 2;
    uint ls = (uint(b[4 + j / 2]) >> (4 * (j % 2)) & 15) | (load2(b + 2) >> (2 * j) & 3) << 4;
    float scale = load_half(b) * float(int(ls) - 32);
    uint q[16];
    nibbles(b + 8 + 16 * j, group % 2 == 1, q);
    for (uint i = 0; i < 16; i++) v[i] = scale * IQ4_LEVELS[q[i]];
  }
};
/* Bytes of a row. */
template <typename W>
static inline ulong weight_row_bytes(uint columns) {
  return ulong(columns / W::COLUMNS) * W::BYTES;
}
/* All types, for instantiations: PSI_EACH_WEIGHT(X) makes X(name, struct) of each. */
#define PSI_EACH_WEIGHT(X)                                                                                       \
  X(f32, WeightF32) X(f16, WeightF16) X(bf16, WeightBF16) X(q4_0, WeightQ4_0) X(q4_1, WeightQ4_1)                 \
  X(q5_0, WeightQ5_0) X(q5_1, WeightQ5_1) X(q8_0, WeightQ8_0) X(q2_k, WeightQ2_K) X(q3_k, WeightQ3_K)             \
  X(q4_k, WeightQ4_K) X(q5_k, WeightQ5_K) X(q6_k, WeightQ6_K) X(iq4_nl, WeightIQ4_NL) X(iq4_xs, WeightIQ4_XS)     \
  X(mxfp4, WeightMXFP4)
