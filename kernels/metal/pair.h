/*
 * Numbers wider than f32 on a GPU without double. A pair (x, y) stands for x + y, |y| at most half an ulp of x: some 48
 * bits (Dekker 1971, Knuth's two-sum). f64 in memory is its bits: sums of them here are correctly rounded, for numbers
 * that are not negative. Needs IEEE arithmetic: no fast math, no contraction.
 */
#pragma once
#include <metal_stdlib>
using namespace metal;

static inline float2 pair_of_sum(float a, float b) {
  const float sum = a + b, other = sum - a;
  return float2(sum, (a - (sum - other)) + (b - other));
}
static inline float2 pair_add(float2 a, float2 b) {
  const float2 sum = pair_of_sum(a.x, b.x);
  return pair_of_sum(sum.x, sum.y + (a.y + b.y));
}
static inline float2 pair_multiply(float2 a, float2 b) {
  const float product = a.x * b.x;
  return pair_of_sum(product, fma(a.x, b.x, -product) + fma(a.x, b.y, a.y * b.x));
}
/* The root of a number above 0. */
static inline float2 pair_root(float2 a) {
  const float root = sqrt(a.x);
  const float2 rest = pair_add(a, pair_multiply(float2(-root, 0.0f), float2(root, 0.0f)));
  return pair_of_sum(root, rest.x / (2.0f * root));
}
/* a / b, rounded. */
static inline float pair_divide(float2 a, float2 b) {
  const float quotient = a.x / b.x;
  return quotient + (fma(-quotient, b.x, a.x) + (a.y - quotient * b.y)) / b.x;
}

/* Sum over a threadgroup in a fixed order, the same in all threads; `partial` has one pair per simdgroup. */
static inline float2 group_pair_sum(float2 v, threadgroup float2* partial, uint lane, uint simd, uint simds) {
  for (ushort distance = 16; distance > 0; distance /= 2) {
    const float high = simd_shuffle_xor(v.x, distance), low = simd_shuffle_xor(v.y, distance);
    v = (lane & distance) == 0 ? pair_add(v, float2(high, low)) : pair_add(float2(high, low), v);
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (lane == 0) partial[simd] = v;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  float2 total = partial[0];
  for (uint i = 1; i < simds; i++) total = pair_add(total, partial[i]);
  return total;
}

/* e with 2^e <= x < 2^(e+1); -127 below the smallest normal number, 128 for infinity and NaN. */
static inline int exponent_of(float x) { return int(as_type<uint>(x) >> 23 & 255) - 127; }

static constant ulong DOUBLE_FRACTION = 0xfffffffffffff;
static constant ulong DOUBLE_INFINITY = 0x7ff0000000000000;
static constant ulong DOUBLE_NAN = 0x7ff8000000000000;

/* 2^exponent (mantissa, 53 bits) to f64, where mantissa comes with 9 more bits below, the last of them sticky. */
static inline ulong double_rounded(ulong mantissa, int exponent) {
  if (mantissa == 0) return 0;
  while (mantissa >> 62 != 0) {
    mantissa = mantissa >> 1 | (mantissa & 1);
    exponent++;
  }
  while (mantissa >> 61 == 0 && exponent > -1074) {
    mantissa <<= 1;
    exponent--;
  }
  while (exponent < -1074) {
    mantissa = mantissa >> 1 | (mantissa & 1);
    exponent++;
  }
  const ulong below = mantissa & 511;
  mantissa >>= 9;
  if (below > 256 || (below == 256 && (mantissa & 1) != 0)) mantissa++;
  /* an overflow of the fraction carries into the exponent */
  const ulong bits = mantissa >> 52 == 0 ? mantissa : (ulong(exponent + 1075) << 52) + (mantissa - (ulong(1) << 52));
  return bits > DOUBLE_INFINITY ? DOUBLE_INFINITY : bits;
}
/* Bits of f64 2^exponent v, v at least 0. */
static inline ulong double_of(float2 v, int exponent) {
  if (isnan(v.x) || isnan(v.y)) return DOUBLE_NAN;
  if (isinf(v.x)) return DOUBLE_INFINITY;
  if (v.x == 0.0f) return 0;
  const int power = exponent_of(v.x);
  const long high = long(ldexp(v.x, 23 - power)), low = long(ldexp(v.y, 61 - power));
  return double_rounded(ulong((high << 38) + low), exponent + power - 52);
}
/* a + b of f64 that are not negative. */
static inline ulong double_add(ulong a, ulong b) {
  if (a < b) {
    const ulong other = a;
    a = b;
    b = other;
  }
  if (a >= DOUBLE_INFINITY) return a;
  const int first = max(int(a >> 52), 1), second = max(int(b >> 52), 1);
  const ulong large = ((a & DOUBLE_FRACTION) | (a >> 52 != 0 ? ulong(1) << 52 : 0)) << 9;
  ulong small = ((b & DOUBLE_FRACTION) | (b >> 52 != 0 ? ulong(1) << 52 : 0)) << 9;
  const int distance = first - second;
  if (distance > 62) small = small != 0 ? 1 : 0;
  else if (distance > 0) small = small >> distance | ((small & ((ulong(1) << distance) - 1)) != 0 ? 1 : 0);
  return double_rounded(large + small, first - 1075);
}
/* 2^-exponent times a finite f64, as a pair, with `exponent` such that the pair is in [1, 4) and exponent is even; 0 of 0. */
static inline float2 pair_of_double(ulong bits, thread int& exponent) {
  exponent = 0;
  ulong mantissa = bits & DOUBLE_FRACTION;
  int power = max(int(bits >> 52 & 2047), 1) - 1075;
  if ((bits >> 52 & 2047) != 0) mantissa |= ulong(1) << 52;
  if (mantissa == 0) return float2(0.0f, 0.0f);
  while (mantissa >> 52 == 0) {
    mantissa <<= 1;
    power--;
  }
  power += 52;
  exponent = power & ~1;
  const float high = float(mantissa), low = float(long(mantissa) - long(high));
  const int scale = power - exponent - 52;
  return float2(ldexp(high, scale), ldexp(low, scale));
}
/* f64 of either sign to f32, nearest even; what is beyond becomes infinity. */
static inline float float_of_double(ulong bits) {
  const bool negative = bits >> 63 != 0;
  bits &= ~(ulong(1) << 63);
  float v;
  if (bits >= DOUBLE_INFINITY) v = bits > DOUBLE_INFINITY ? NAN : INFINITY;
  else {
    int exponent;
    const float2 part = pair_of_double(bits, exponent);
    v = ldexp(part.x, exponent);
  }
  return negative ? -v : v;
}
