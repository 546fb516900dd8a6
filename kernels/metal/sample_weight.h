/*
 * Weights of logits on a GPU without double: exp(x) of pairs of floats (pair.h), x at most 0, as whole numbers of 2^-44, so that sums
 * depend on no order; f64 of a record to pairs; shares of whole numbers, exact.
 */
#pragma once
#include "pair.h"

static constant float LN2_HIGH = 0.693145751953125f; /* 17 bits: its products with small whole numbers are exact */
static constant float LN2_MIDDLE = 1.428606765330187e-06f;
static constant float LN2_LOW = 5.497923148104107e-14f;
/* 1 / k! from k = 7 on, and the pairs for 6 to 3 */
static constant float EXP_TAIL[7] = {1.6059044372074283e-10f, 2.0876755879584152e-09f, 2.5052107943679403e-08f, 2.755731998149713e-07f,
                              2.7557318844628753e-06f, 2.4801587642286904e-05f, 0.00019841270113829523f};
static constant float EXP_HIGH[7] = {0.0013888889225199819f, 0.008333333767950535f, 0.0416666679084301f, 0.1666666716337204f, 0.5f, 1.0f, 1.0f};
static constant float EXP_LOW[7] = {-3.3631094437103215e-11f, -4.34617203337595e-10f, -1.2417634698280722e-09f, -4.967053879312289e-09f, 0.0f, 0.0f, 0.0f};

/* Sum and product that stay what floats give where those are no finite numbers. */
static inline float2 pair_plus(float2 a, float2 b) {
  const float plain = a.x + b.x;
  if (isnan(plain) || isinf(plain)) return float2(plain, 0.0f);
  return pair_add(a, b);
}
static inline float2 pair_times(float2 a, float2 b) {
  const float plain = a.x * b.x;
  if (isnan(plain) || isinf(plain)) return float2(plain, 0.0f);
  return pair_multiply(a, b);
}
static inline float2 pair_over(float2 a, float2 b) {
  const float plain = a.x / b.x;
  if (isnan(plain) || isinf(plain)) return float2(plain, 0.0f);
  const float2 rest = pair_add(a, pair_multiply(float2(-plain, 0.0f), b));
  return pair_of_sum(plain, rest.x / b.x);
}

/* An f64 of either sign; what floats cannot hold becomes infinite or vanishes. */
static inline float2 pair_of_bits(ulong bits) {
  const bool negative = bits >> 63 != 0;
  bits &= ~(ulong(1) << 63);
  float2 v = float2(bits > DOUBLE_INFINITY ? NAN : INFINITY, 0.0f);
  if (bits < DOUBLE_INFINITY) {
    int exponent;
    const float2 part = pair_of_double(bits, exponent);
    v = float2(ldexp(part.x, exponent), ldexp(part.y, exponent));
    if (isinf(v.x)) v.y = 0.0f;
  }
  return negative ? float2(-v.x, -v.y) : v;
}

/* exp(x) = result * 2^power for -100 < x <= 0; some 2^-45 of it. */
static inline float2 pair_exp(float2 x, thread int& power) {
  const float n = rint(x.x * 1.4426950408889634f);
  float2 r = pair_add(x, float2(-n * LN2_HIGH, 0.0f));
  r = pair_add(r, pair_multiply(float2(-n, 0.0f), float2(LN2_MIDDLE, LN2_LOW)));
  float tail = EXP_TAIL[0];
  for (int i = 1; i < 7; i++) tail = fma(tail, r.x, EXP_TAIL[i]);
  float2 sum = float2(tail, 0.0f);
  for (int i = 0; i < 7; i++) sum = pair_add(pair_multiply(sum, r), float2(EXP_HIGH[i], EXP_LOW[i]));
  power = int(n);
  return sum;
}

/* exp(x) in units of 2^-44 for x <= 0; NaN gives 0. */
static inline ulong weight_of(float2 x) {
  if (!(x.x > -31.5f)) return 0;
  int power;
  const float2 e = pair_exp(x, power);
  const float high = ldexp(e.x, power + 44), low = ldexp(e.y, power + 44);
  const float whole_high = floor(high), whole_low = floor(low);
  const long whole = long(whole_high) + long(whole_low) + long((high - whole_high) + (low - whole_low) + 0.5f);
  return whole > 0 ? ulong(whole) : 0;
}

/* log(x) of an f64 in (0, 1]. */
static inline float2 pair_log(ulong bits) {
  int exponent, power;
  const float2 part = pair_of_double(bits, exponent);
  const float near = precise::log(part.x);
  const float2 e = pair_exp(float2(-near, 0.0f), power);
  const float2 ratio = pair_multiply(part, float2(ldexp(e.x, power), ldexp(e.y, power)));
  const float d = pair_add(ratio, float2(-1.0f, 0.0f)).x;
  const float2 fraction = pair_of_sum(near, d - 0.5f * d * d);
  return pair_add(pair_multiply(float2(float(exponent), 0.0f), float2(0.6931471824645996f, -1.9046542121259336e-09f)), fraction);
}

static constant ulong DOUBLE_ONE = 0x3ff0000000000000;
static constant ulong DOUBLE_SIGN = 0x8000000000000000;
/* f64 by their bits. */
static inline bool double_is_zero(ulong bits) { return (bits & ~DOUBLE_SIGN) == 0; }
static inline bool double_at_least_zero(ulong bits) { return bits <= DOUBLE_INFINITY || bits == DOUBLE_SIGN; }
static inline bool double_above_zero(ulong bits) { return bits != 0 && bits <= DOUBLE_INFINITY; }
static inline bool double_below_one(ulong bits) { return bits < DOUBLE_ONE || bits == DOUBLE_SIGN; }

/* The upper 64 bits of a product. */
static inline ulong upper_product(ulong a, ulong b) {
  const ulong al = a & 0xffffffff, ah = a >> 32, bl = b & 0xffffffff, bh = b >> 32;
  const ulong middle = ah * bl + (al * bl >> 32), other = al * bh + (middle & 0xffffffff);
  return ah * bh + (middle >> 32) + (other >> 32);
}

/* What must be reached when a share, an f64 in [0, 1), of `total` is wanted: sums are whole, so "above" is "one more". */
static inline ulong needed(ulong share, ulong total, bool above) {
  const ulong field = share >> 52 & 2047, mantissa = (share & DOUBLE_FRACTION) | (field != 0 ? ulong(1) << 52 : 0);
  const uint shift = 1075 - max(uint(field), 1u); /* share = mantissa / 2^shift, shift above 52 */
  const ulong low = mantissa * total, high = upper_product(mantissa, total);
  ulong whole = 0, rest = low | high;
  if (shift < 64) {
    whole = high << (64 - shift) | low >> shift;
    rest = low & ((ulong(1) << shift) - 1);
  } else if (shift < 128) {
    whole = high >> (shift - 64);
    rest = low | (high & ((ulong(1) << (shift - 64)) - 1));
  }
  if (above || rest != 0) whole++;
  return whole < 1 ? 1 : whole > total ? total : whole;
}
