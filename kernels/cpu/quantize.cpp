/*
 * x f32 [rows, columns] to file layout of any type, for test and random-weight files. The types with one scale a block
 * follow ggml's reference quantisers; those with scales of scales use the plain rule "range over number of steps" for
 * each sub-block, then rounded scales, then codes nearest to those. Built once, plain loops, one task a row.
 */
#include "../common/half.h"
#include "../common/pool.h"
#include "../common/types.h"

#ifdef PSI_LAUNCHER
#include <math.h>

namespace psi {
namespace {

/* v rounded to the nearest whole number (ties away from zero) within lo..hi; NaN gives lo */
int nearest(float v, int lo, int hi) {
  if (!(v > (float)lo)) return lo;
  if (v >= (float)hi) return hi;
  return (int)roundf(v);
}
void put_half(u8* p, float v) {
  u16 h = f32_to_f16(v);
  memcpy(p, &h, 2);
}
float stored_half(float v) { return f16_to_f32(f32_to_f16(v)); }
float inverse(float v) { return v != 0 ? 1.0f / v : 0.0f; }

/* The element of largest magnitude, with its sign. */
float extreme(const float* x, int n) {
  float best = 0;
  for (int i = 0; i < n; i++)
    if (fabsf(x[i]) > fabsf(best)) best = x[i];
  return best;
}
void range(const float* x, int n, float* lo, float* hi) {
  *lo = *hi = x[0];
  for (int i = 1; i < n; i++) {
    if (x[i] < *lo) *lo = x[i];
    if (x[i] > *hi) *hi = x[i];
  }
}
u8 nearest_level(const i8* levels, float v) {
  int best = 0;
  for (int i = 1; i < 16; i++)
    if (fabsf(v - (float)levels[i]) < fabsf(v - (float)levels[best])) best = i;
  return (u8)best;
}
void put_nibbles(u8* b, const u8* q) {
  for (int j = 0; j < 16; j++) b[j] = (u8)(q[j] | q[j + 16] << 4);
}
void put_fifth_bits(u8* b, const u8* q) {
  u32 high = 0;
  for (int j = 0; j < 32; j++) high |= (u32)(q[j] >> 4) << j;
  memcpy(b, &high, 4);
}

void q8_0(u8* b, const float* x) {
  float d = fabsf(extreme(x, 32)) / 127.0f, inv = inverse(d);
  put_half(b, d);
  for (int i = 0; i < 32; i++) b[2 + i] = (u8)(i8)nearest(x[i] * inv, -127, 127);
}
/* one signed scale: the extreme element becomes code 0 */
template <int STEPS>
void symmetric(u8* b, const float* x) {
  float d = extreme(x, 32) / (float)(-STEPS / 2), inv = inverse(d);
  u8 q[32], low[32];
  for (int i = 0; i < 32; i++) {
    float v = x[i] * inv + (float)(STEPS / 2) + 0.5f;
    q[i] = (u8)(!(v > 0) ? 0 : v >= (float)STEPS ? STEPS - 1 : (int)v);
    low[i] = q[i] & 15;
  }
  put_half(b, d);
  if (STEPS == 32) put_fifth_bits(b + 2, q);
  put_nibbles(b + (STEPS == 32 ? 6 : 2), low);
}
template <int STEPS>
void with_minimum(u8* b, const float* x) {
  float lo, hi;
  range(x, 32, &lo, &hi);
  float d = (hi - lo) / (float)(STEPS - 1), inv = inverse(d);
  u8 q[32], low[32];
  for (int i = 0; i < 32; i++) {
    float v = (x[i] - lo) * inv + 0.5f;
    q[i] = (u8)(!(v > 0) ? 0 : v >= (float)STEPS ? STEPS - 1 : (int)v);
    low[i] = q[i] & 15;
  }
  put_half(b, d);
  put_half(b + 2, lo);
  if (STEPS == 32) put_fifth_bits(b + 4, q);
  put_nibbles(b + (STEPS == 32 ? 8 : 4), low);
}
void iq4_nl(u8* b, const float* x) {
  float d = extreme(x, 32) / -127.0f, inv = inverse(d);
  u8 q[32];
  for (int i = 0; i < 32; i++) q[i] = nearest_level(IQ4_LEVELS, x[i] * inv);
  put_half(b, d);
  put_nibbles(b + 2, q);
}
void mxfp4(u8* b, const float* x) {
  float largest = fabsf(extreme(x, 32));
  int e = largest > 0 ? ilogbf(largest) - 2 + 127 : 0;
  e = e < 0 ? 0 : e > 254 ? 254 : e;
  float inv = 1.0f / bits_f32(mxfp4_scale_bits((u32)e));
  u8 q[32];
  for (int i = 0; i < 32; i++) q[i] = nearest_level(FP4_LEVELS, x[i] * inv);
  b[0] = (u8)e;
  put_nibbles(b + 1, q);
}

/* Sub-blocks of N elements with scale and minimum: rounded multipliers of the two super-scales, and codes 0..top. */
template <int N>
void scales_and_minima(const float* x, int top, int multiplier_top, u8* sc, u8* mn, float* d, float* dmin, u8* q) {
  constexpr int SUBS = 256 / N;
  float scale[SUBS], minimum[SUBS], largest_scale = 0, largest_minimum = 0;
  for (int s = 0; s < SUBS; s++) {
    float lo, hi;
    range(x + s * N, N, &lo, &hi);
    if (lo > 0) lo = 0;
    minimum[s] = -lo;
    scale[s] = (hi - lo) / (float)top;
    if (scale[s] > largest_scale) largest_scale = scale[s];
    if (minimum[s] > largest_minimum) largest_minimum = minimum[s];
  }
  *d = stored_half(largest_scale / (float)multiplier_top);
  *dmin = stored_half(largest_minimum / (float)multiplier_top);
  for (int s = 0; s < SUBS; s++) {
    sc[s] = (u8)nearest(scale[s] * inverse(*d), 0, multiplier_top);
    mn[s] = (u8)nearest(minimum[s] * inverse(*dmin), 0, multiplier_top);
    float inv = inverse(*d * (float)sc[s]), offset = *dmin * (float)mn[s];
    for (int i = 0; i < N; i++) q[s * N + i] = (u8)nearest((x[s * N + i] + offset) * inv, 0, top);
  }
}
/* Sub-blocks of N elements with a signed scale: multipliers lo..hi of one super-scale; returns it. */
template <int N>
float signed_scales(const float* x, int half_steps, int lo, int hi, int* sc) {
  float scale[256 / N], largest = 0;
  for (int s = 0; s < 256 / N; s++) {
    scale[s] = extreme(x + s * N, N) / (float)-half_steps;
    if (fabsf(scale[s]) > largest) largest = fabsf(scale[s]);
  }
  float d = stored_half(largest / (float)hi);
  for (int s = 0; s < 256 / N; s++) sc[s] = nearest(scale[s] * inverse(d), lo, hi);
  return d;
}

void q2_k(u8* b, const float* x) {
  u8 sc[16], mn[16], q[256];
  float d, dmin;
  scales_and_minima<16>(x, 3, 15, sc, mn, &d, &dmin, q);
  memset(b, 0, 84);
  for (int s = 0; s < 16; s++) b[s] = (u8)(sc[s] | mn[s] << 4);
  for (int i = 0; i < 256; i++) {
    u8* byte = b + 16 + 32 * (i / 128) + i % 32;
    *byte = (u8)(*byte | q[i] << (2 * (i / 32 % 4)));
  }
  put_half(b + 80, d);
  put_half(b + 82, dmin);
}
void q3_k(u8* b, const float* x) {
  int sc[16];
  float d = signed_scales<16>(x, 4, -32, 31, sc);
  memset(b, 0, 110);
  for (int s = 0; s < 16; s++) {
    int v = sc[s] + 32;
    b[96 + s % 8] = (u8)(b[96 + s % 8] | (v & 15) << (s / 8 * 4));
    b[104 + s % 4] = (u8)(b[104 + s % 4] | (v >> 4) << (s / 4 * 2));
  }
  for (int i = 0; i < 256; i++) {
    int code = nearest(x[i] * inverse(d * (float)sc[i / 16]), -4, 3) + 4;
    u8* byte = b + 32 + 32 * (i / 128) + i % 32;
    *byte = (u8)(*byte | (code & 3) << (2 * (i / 32 % 4)));
    b[i % 32] = (u8)(b[i % 32] | (code >> 2) << (i / 32));
  }
  put_half(b + 108, d);
}
template <int TOP>
void q45_k(u8* b, const float* x) {
  u8 sc[8], mn[8], q[256];
  float d, dmin;
  scales_and_minima<32>(x, TOP, 63, sc, mn, &d, &dmin, q);
  const int low = TOP == 31 ? 48 : 16;
  memset(b, 0, (size_t)low + 128);
  put_half(b, d);
  put_half(b + 2, dmin);
  u8* s = b + 4;
  for (int j = 0; j < 4; j++) {
    s[j] = (u8)(sc[j] | (sc[j + 4] >> 4) << 6);
    s[j + 4] = (u8)(mn[j] | (mn[j + 4] >> 4) << 6);
    s[j + 8] = (u8)((sc[j + 4] & 15) | (mn[j + 4] & 15) << 4);
  }
  for (int i = 0; i < 256; i++) {
    u8* byte = b + low + 32 * (i / 64) + i % 32;
    *byte = (u8)(*byte | (q[i] & 15) << (i / 32 % 2 * 4));
    if (TOP == 31) b[16 + i % 32] = (u8)(b[16 + i % 32] | (q[i] >> 4) << (i / 32));
  }
}
void q6_k(u8* b, const float* x) {
  int sc[16];
  float d = signed_scales<16>(x, 32, -128, 127, sc);
  memset(b, 0, 210);
  for (int s = 0; s < 16; s++) b[192 + s] = (u8)(i8)sc[s];
  for (int i = 0; i < 256; i++) {
    int code = nearest(x[i] * inverse(d * (float)sc[i / 16]), -32, 31) + 32, h = i / 128, part = i / 32 % 4, l = i % 32;
    u8* low = b + 64 * h + 32 * (part % 2) + l;
    u8* high = b + 128 + 32 * h + l;
    *low = (u8)(*low | (code & 15) << (part / 2 * 4));
    *high = (u8)(*high | (code >> 4) << (2 * part));
  }
  put_half(b + 208, d);
}
void iq4_xs(u8* b, const float* x) {
  int sc[8];
  float d = signed_scales<32>(x, 127, -32, 31, sc);
  memset(b, 0, 136);
  put_half(b, d);
  u16 high = 0;
  for (int j = 0; j < 8; j++) {
    int v = sc[j] + 32;
    b[4 + j / 2] = (u8)(b[4 + j / 2] | (v & 15) << (j % 2 * 4));
    high = (u16)(high | (v >> 4) << (2 * j));
    u8 q[32];
    for (int i = 0; i < 32; i++) q[i] = nearest_level(IQ4_LEVELS, x[32 * j + i] * inverse(d * (float)sc[j]));
    put_nibbles(b + 8 + 16 * j, q);
  }
  memcpy(b + 2, &high, 2);
}

void quantize_row(u8* y, const float* x, i64 columns, const TypeInfo& type) {
  for (i64 i = 0; i < columns / type.block; i++) {
    u8* b = y + i * type.block_bytes;
    const float* v = x + i * type.block;
    f64 wide;
    u16 bf16;
    switch (type.id) {
      case F32: memcpy(b, v, 4); break;
      case F64:
        wide = *v;
        memcpy(b, &wide, 8);
        break;
      case F16: put_half(b, *v); break;
      case BF16:
        bf16 = f32_to_bf16(*v);
        memcpy(b, &bf16, 2);
        break;
      case Q8_0: q8_0(b, v); break;
      case Q4_0: symmetric<16>(b, v); break;
      case Q5_0: symmetric<32>(b, v); break;
      case Q4_1: with_minimum<16>(b, v); break;
      case Q5_1: with_minimum<32>(b, v); break;
      case IQ4_NL: iq4_nl(b, v); break;
      case MXFP4: mxfp4(b, v); break;
      case Q2_K: q2_k(b, v); break;
      case Q3_K: q3_k(b, v); break;
      case Q4_K: q45_k<15>(b, v); break;
      case Q5_K: q45_k<31>(b, v); break;
      case Q6_K: q6_k(b, v); break;
      case IQ4_XS: iq4_xs(b, v); break;
    }
  }
}

}  // namespace
}  // namespace psi

PSI_API i32 psi_quantize(void* y, const void* x, i32 rows, i32 columns, i32 dtype) {
  PSI_OPENED("psi_quantize");
  if (!y || !x) return psi::fail(PSI_INVALID, "[psi_quantize] expected non-null pointers.");
  if (rows < 0 || columns < 1) return psi::fail(PSI_INVALID, "[psi_quantize] expected rows >= 0 and columns >= 1, got %d and %d.", rows, columns);
  const psi::TypeInfo* type;
  i32 status = psi::check_weight_type("psi_quantize", dtype, columns, &type);
  if (status != PSI_OK) return status;
  const i64 bytes = psi::row_bytes(*type, columns);
  psi::parallel(rows, [&](i64 r, int) { psi::quantize_row((u8*)y + r * bytes, (const float*)x + r * columns, columns, *type); });
  return PSI_OK;
}
#endif
