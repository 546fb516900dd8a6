/*
 * The panel layout of packed weights and how each type is read from it (namespace psi::PSI_ISA).
 *
 * A panel holds 16 consecutive outputs (rows of the file's matrix), column by column, with the file's bits per weight.
 * For a block of 32 columns the 16 rows' codes, one byte each, are ordered [column/4 (8)][row (16)][column%4 (4)]: 512
 * bytes, of which eight 64-byte vectors meet the broadcast activations of four columns each. Codes narrower than a
 * byte are stored in bit planes of that order, blocks one after the other:
 *   nibbles  256 bytes a block: byte i has position i in its low half and position i+256 in its high half
 *   2 bits   128 bytes a block: bits 2t..2t+1 of byte p belong to position 128t+p
 *   1 bit     64 bytes a block: bit t of byte p belongs to position 64t+p
 * The plane of the low code bits comes first, then that of the high bits, then the scales, one record a block:
 *   Q8_0 Q4_0 Q5_0 IQ4_NL  f16 d[16]                       Q4_1 Q5_1  f16 d[16], f16 m[16]        MXFP4  u8 e[16]
 *   Q2_K  f16 d[16], f16 dmin[16], u8 scales[16][16]       Q6_K  f16 d[16], i8 scales[16][16]
 *   Q3_K  f16 d[16], 16x16 six-bit scales                  Q4_K Q5_K  f16 d[16], f16 dmin[16], 16x16 six-bit (8 scales,
 *   IQ4_XS  f16 d[16], 8x16 six-bit scales                            then 8 mins)
 * Six-bit scales [s][row] are a nibble plane and a 2-bit plane over s*16+row, by the rules above.
 * F32, F16, BF16, F64: [column][row]. Rows past the end of the matrix are zero bytes.
 *
 * Each type is a struct with: LOW and HIGH, the bits of its two planes; BIAS, what a code exceeds its value by; WIDE,
 * codes above 127 occur; HALVES, scales per block of 32 columns; MINS, there is a second term; codes(), scale(), min().
 * The value of a weight is scale * (code - BIAS) + min, rounded at each step as in dequantize.cpp.
 */
#pragma once
#include "simd.h"
#include "types.h"

namespace psi::PSI_ISA {

/* ---- bit planes ---- */
PSI_INLINE void nibble_codes(const u8* p, vb* w) {
  vb mask = set1b(15);
  unroll<4>([&](auto i) PSI_LAMBDA {
    vb both = loadb(p + 64 * i);
    w[i] = andb(both, mask);
    w[i + 4] = andb(shrb<4>(both), mask);
  });
}
PSI_INLINE void two_bit_codes(const u8* p, vb* w) {
  vb mask = set1b(3);
  unroll<2>([&](auto i) PSI_LAMBDA {
    vb four = loadb(p + 64 * i);
    w[i] = andb(four, mask);
    w[i + 2] = andb(shrb<2>(four), mask);
    w[i + 4] = andb(shrb<4>(four), mask);
    w[i + 6] = andb(shrb<6>(four), mask);
  });
}
/* Adds a 2-bit plane as bits 4 and 5. */
PSI_INLINE void add_two_bits(const u8* p, vb* w) {
  vb mask = set1b(0x30);
  unroll<2>([&](auto i) PSI_LAMBDA {
    vb four = loadb(p + 64 * i);
    w[i] = orb(w[i], andb(shlb<4>(four), mask));
    w[i + 2] = orb(w[i + 2], andb(shlb<2>(four), mask));
    w[i + 4] = orb(w[i + 4], andb(four, mask));
    w[i + 6] = orb(w[i + 6], andb(shrb<2>(four), mask));
  });
}
/* Adds a 1-bit plane as bit BIT. */
template <int BIT>
PSI_INLINE void add_one_bit(const u8* p, vb* w) {
  vb mask = set1b(1 << BIT);
  vb eight = loadb(p);
  unroll<8>([&](auto i) PSI_LAMBDA {
    constexpr int I = i;
    vb moved;
    if constexpr (I < BIT) moved = shlb<BIT - I>(eight);
    else if constexpr (I > BIT) moved = shrb<I - BIT>(eight);
    else moved = eight;
    w[I] = orb(w[I], andb(moved, mask));
  });
}
PSI_INLINE void table_codes(const u8* p, const u8* table, vb* w) {
  nibble_codes(p, w);
  unroll<8>([&](auto i) PSI_LAMBDA { w[i] = lookup16(w[i], table); });
}
/* Six-bit scales number s of `count`, 16 rows. */
PSI_INLINE vi six_bits(const u8* p, int count, int s) {
  vi nibbles = load_u8(p + s % (count / 2) * 16);
  vi pairs = load_u8(p + count * 8 + s % (count / 4) * 16);
  nibbles = s < count / 2 ? nibbles : shri<4>(nibbles);
  switch (s / (count / 4)) {
    case 1: pairs = shri<2>(pairs); break;
    case 2: pairs = shri<4>(pairs); break;
    case 3: pairs = shri<6>(pairs); break;
  }
  return ori(andi(nibbles, set1i(15)), shli<4>(andi(pairs, set1i(3))));
}

alignas(16) constexpr u8 IQ4_CODES[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};
alignas(16) constexpr u8 FP4_CODES[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

/* ---- types ---- */
template <int ID_, int LOW_, int HIGH_, int BIAS_, bool WIDE_, int HALVES_, bool MINS_, int COLUMNS_, int RECORD_>
struct BlockType {
  static constexpr int ID = ID_, LOW = LOW_, HIGH = HIGH_, BIAS = BIAS_, HALVES = HALVES_;
  static constexpr bool WIDE = WIDE_, MINS = MINS_;
  static constexpr int COLUMNS = COLUMNS_; /* of a file block */
  static constexpr int RECORD = RECORD_;   /* bytes of a scale record, one a file block */
  PSI_INLINE const u8* low(const u8* p, i64 b) { return p + b * (64 * LOW); }
  PSI_INLINE const u8* high(const u8* p, i64 blocks, i64 b) { return p + blocks * (64 * LOW) + b * (64 * HIGH); }
  PSI_INLINE const u8* record(const u8* p, i64 blocks, i64 b) {
    return p + blocks * (64 * (LOW + HIGH)) + b / (COLUMNS / 32) * RECORD;
  }
  PSI_INLINE vf min(const u8*, i64, i64, int) { return zero(); }
};

struct TypeQ8_0 : BlockType<Q8_0, 8, 0, 128, true, 1, false, 32, 32> {
  PSI_INLINE void codes(const u8* p, i64, i64 b, vb* w) {
    unroll<8>([&](auto i) PSI_LAMBDA { w[i] = loadb(low(p, b) + 64 * i); });
  }
  PSI_INLINE vf scale(const u8* p, i64 n, i64 b, int) { return load_f16(record(p, n, b)); }
};
struct TypeQ4_0 : BlockType<Q4_0, 4, 0, 8, false, 1, false, 32, 32> {
  PSI_INLINE void codes(const u8* p, i64, i64 b, vb* w) { nibble_codes(low(p, b), w); }
  PSI_INLINE vf scale(const u8* p, i64 n, i64 b, int) { return load_f16(record(p, n, b)); }
};
struct TypeQ4_1 : BlockType<Q4_1, 4, 0, 0, false, 1, true, 32, 64> {
  PSI_INLINE void codes(const u8* p, i64, i64 b, vb* w) { nibble_codes(low(p, b), w); }
  PSI_INLINE vf scale(const u8* p, i64 n, i64 b, int) { return load_f16(record(p, n, b)); }
  PSI_INLINE vf min(const u8* p, i64 n, i64 b, int) { return load_f16(record(p, n, b) + 32); }
};
struct TypeQ5_0 : BlockType<Q5_0, 4, 1, 16, false, 1, false, 32, 32> {
  PSI_INLINE void codes(const u8* p, i64 n, i64 b, vb* w) {
    nibble_codes(low(p, b), w);
    add_one_bit<4>(high(p, n, b), w);
  }
  PSI_INLINE vf scale(const u8* p, i64 n, i64 b, int) { return load_f16(record(p, n, b)); }
};
struct TypeQ5_1 : BlockType<Q5_1, 4, 1, 0, false, 1, true, 32, 64> {
  PSI_INLINE void codes(const u8* p, i64 n, i64 b, vb* w) {
    nibble_codes(low(p, b), w);
    add_one_bit<4>(high(p, n, b), w);
  }
  PSI_INLINE vf scale(const u8* p, i64 n, i64 b, int) { return load_f16(record(p, n, b)); }
  PSI_INLINE vf min(const u8* p, i64 n, i64 b, int) { return load_f16(record(p, n, b) + 32); }
};
struct TypeIQ4_NL : BlockType<IQ4_NL, 4, 0, 128, true, 1, false, 32, 32> {
  PSI_INLINE void codes(const u8* p, i64, i64 b, vb* w) { table_codes(low(p, b), IQ4_CODES, w); }
  PSI_INLINE vf scale(const u8* p, i64 n, i64 b, int) { return load_f16(record(p, n, b)); }
};
struct TypeMXFP4 : BlockType<MXFP4, 4, 0, 12, false, 1, false, 32, 16> {
  PSI_INLINE void codes(const u8* p, i64, i64 b, vb* w) { table_codes(low(p, b), FP4_CODES, w); }
  PSI_INLINE vf scale(const u8* p, i64 n, i64 b, int) {
    /* 2^(e - 128): bits (e - 1) << 23, or (e + 1) << 21 below the normal numbers; the wrong one of the two is less */
    vi e = load_u8(record(p, n, b));
    return floats(maxi(shli<23>(subi(e, set1i(1))), shli<21>(addi(e, set1i(1)))));
  }
};
struct TypeQ2_K : BlockType<Q2_K, 2, 0, 0, false, 2, true, 256, 320> {
  PSI_INLINE void codes(const u8* p, i64, i64 b, vb* w) { two_bit_codes(low(p, b), w); }
  PSI_INLINE vi pair(const u8* r, i64 b, int half) { return load_u8(r + 64 + ((b & 7) * 2 + half) * 16); }
  PSI_INLINE vf scale(const u8* p, i64 n, i64 b, int half) {
    const u8* r = record(p, n, b);
    return load_f16(r) * cvt(andi(pair(r, b, half), set1i(15)));
  }
  PSI_INLINE vf min(const u8* p, i64 n, i64 b, int half) {
    const u8* r = record(p, n, b);
    return set1(-1.0f) * load_f16(r + 32) * cvt(shri<4>(pair(r, b, half)));
  }
};
struct TypeQ3_K : BlockType<Q3_K, 2, 1, 4, false, 2, false, 256, 224> {
  PSI_INLINE void codes(const u8* p, i64 n, i64 b, vb* w) {
    two_bit_codes(low(p, b), w);
    add_one_bit<2>(high(p, n, b), w);
  }
  PSI_INLINE vf scale(const u8* p, i64 n, i64 b, int half) {
    const u8* r = record(p, n, b);
    return load_f16(r) * cvt(subi(six_bits(r + 32, 16, (int)(b & 7) * 2 + half), set1i(32)));
  }
};
template <int ID, int HIGH>
struct TypeQ45_K : BlockType<ID, 4, HIGH, 0, false, 1, true, 256, 256> {
  typedef BlockType<ID, 4, HIGH, 0, false, 1, true, 256, 256> Base;
  PSI_INLINE void codes(const u8* p, i64 n, i64 b, vb* w) {
    nibble_codes(Base::low(p, b), w);
    if constexpr (HIGH == 1) add_one_bit<4>(Base::high(p, n, b), w);
    (void)n;
  }
  PSI_INLINE vf scale(const u8* p, i64 n, i64 b, int) {
    const u8* r = Base::record(p, n, b);
    return load_f16(r) * cvt(six_bits(r + 64, 16, (int)(b & 7)));
  }
  PSI_INLINE vf min(const u8* p, i64 n, i64 b, int) {
    const u8* r = Base::record(p, n, b);
    return set1(-1.0f) * load_f16(r + 32) * cvt(six_bits(r + 64, 16, 8 + (int)(b & 7)));
  }
};
typedef TypeQ45_K<Q4_K, 0> TypeQ4_K;
typedef TypeQ45_K<Q5_K, 1> TypeQ5_K;
struct TypeQ6_K : BlockType<Q6_K, 4, 2, 32, false, 2, false, 256, 288> {
  PSI_INLINE void codes(const u8* p, i64 n, i64 b, vb* w) {
    nibble_codes(low(p, b), w);
    add_two_bits(high(p, n, b), w);
  }
  PSI_INLINE vf scale(const u8* p, i64 n, i64 b, int half) {
    const u8* r = record(p, n, b);
    return load_f16(r) * cvt(load_s8(r + 32 + ((b & 7) * 2 + half) * 16));
  }
};
struct TypeIQ4_XS : BlockType<IQ4_XS, 4, 0, 128, true, 1, false, 256, 128> {
  PSI_INLINE void codes(const u8* p, i64, i64 b, vb* w) { table_codes(low(p, b), IQ4_CODES, w); }
  PSI_INLINE vf scale(const u8* p, i64 n, i64 b, int) {
    const u8* r = record(p, n, b);
    return load_f16(r) * cvt(subi(six_bits(r + 32, 8, (int)(b & 7)), set1i(32)));
  }
};

/* The scales and mins of blocks first..first+count. All blocks of a record are taken together: where their parts lie in
   it is then known at compile time. */
template <class T>
static void expand_scales(const u8* panel, i64 blocks, i64 first, i64 count, float* scales, float* mins) {
  constexpr int TOGETHER = T::COLUMNS / 32;
  for (i64 from = 0; from < count; from += TOGETHER)
    unroll<TOGETHER>([&](auto i) PSI_LAMBDA {
      const i64 at = (from + i) * T::HALVES * 16, b = (first + from) / TOGETHER * TOGETHER + i;
      unroll<T::HALVES>([&](auto h) PSI_LAMBDA {
        store(scales + at + h * 16, T::scale(panel, blocks, b, h));
        if constexpr (T::MINS) store(mins + at + h * 16, T::min(panel, blocks, b, h));
      });
    });
}

struct TypeF32 {
  static constexpr int ID = F32, BYTES = 4;
  PSI_INLINE vf column(const u8* p) { return load((const float*)p); }
};
struct TypeF16 {
  static constexpr int ID = F16, BYTES = 2;
  PSI_INLINE vf column(const u8* p) { return load_f16(p); }
};
struct TypeBF16 {
  static constexpr int ID = BF16, BYTES = 2;
  PSI_INLINE vf column(const u8* p) { return load_bf16(p); }
};

/* Calls f(Type{}) for the block type `id`; false when it is none. */
template <class F>
PSI_INLINE bool with_block_type(i32 id, F&& f) {
  switch (id) {
    case Q8_0: f(TypeQ8_0{}); return true;
    case Q4_0: f(TypeQ4_0{}); return true;
    case Q4_1: f(TypeQ4_1{}); return true;
    case Q5_0: f(TypeQ5_0{}); return true;
    case Q5_1: f(TypeQ5_1{}); return true;
    case IQ4_NL: f(TypeIQ4_NL{}); return true;
    case MXFP4: f(TypeMXFP4{}); return true;
    case Q2_K: f(TypeQ2_K{}); return true;
    case Q3_K: f(TypeQ3_K{}); return true;
    case Q4_K: f(TypeQ4_K{}); return true;
    case Q5_K: f(TypeQ5_K{}); return true;
    case Q6_K: f(TypeQ6_K{}); return true;
    case IQ4_XS: f(TypeIQ4_XS{}); return true;
  }
  return false;
}
template <class F>
PSI_INLINE bool with_float_type(i32 id, F&& f) {
  switch (id) {
    case F32: f(TypeF32{}); return true;
    case F16: f(TypeF16{}); return true;
    case BF16: f(TypeBF16{}); return true;
  }
  return false;
}

}  // namespace psi::PSI_ISA
