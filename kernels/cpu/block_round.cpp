/*
 * y = x, f32 [count], as blocks of MXFP4 or Q8_0 would hold it, f32 or bf16: quantize.cpp's rule and dequantize.cpp's in one,
 * bit for bit. Blocks of 32 along memory; 8192 elements a task. Built once, plain loops.
 */
#include "../common/half.h"
#include "../common/pool.h"
#include "../common/types.h"
#include "train.h"

#ifdef PSI_LAUNCHER
#include <math.h>

namespace psi {
namespace {

/* Twice the e2m1 value nearest to v; of two as near the one nearer to zero. What is too small for a scale's inverse is 0. */
float nearest_fp4(float v) {
  const float a = fabsf(v);
  const float level = !(a > 0.5f) || a > 3e38f ? 0.0f : a <= 1.5f ? 1.0f : a <= 2.5f ? 2.0f : a <= 3.5f ? 3.0f : a <= 5.0f ? 4.0f : a <= 7.0f ? 6.0f : a <= 10.0f ? 8.0f : 12.0f;
  return level == 0.0f ? 0.0f : copysignf(level, v);
}

float largest_of(const float* x) {
  float largest = 0;
  for (int i = 0; i < 32; i++)
    if (fabsf(x[i]) > largest) largest = fabsf(x[i]);
  return largest;
}

void mxfp4(float* y, const float* x) {
  const float largest = largest_of(x);
  int e = largest > 0 ? ilogbf(largest) - 2 + 127 : 0;
  e = e < 0 ? 0 : e > 254 ? 254 : e;
  const float scale = bits_f32(mxfp4_scale_bits((u32)e)), inverse = 1.0f / scale;
  for (int i = 0; i < 32; i++) y[i] = scale * nearest_fp4(x[i] * inverse);
}

void q8_0(float* y, const float* x) {
  const float d = largest_of(x) / 127.0f, inverse = d != 0 ? 1.0f / d : 0.0f, stored = f16_to_f32(f32_to_f16(d));
  for (int i = 0; i < 32; i++) {
    const float v = x[i] * inverse;
    /* a code has no zero below zero */
    y[i] = stored * ((!(v > -127.0f) ? -127.0f : v >= 127.0f ? 127.0f : roundf(v)) + 0.0f);
  }
}

/* The blocks of `from` to `to`. */
void round_blocks(void* y, const float* x, i32 format, i32 to_type, i64 from, i64 to) {
  float values[32];
  for (i64 k = from; k < to; k += 32) {
    float* place = to_type == F32 ? (float*)y + k : values;
    if (format == MXFP4) mxfp4(place, x + k);
    else q8_0(place, x + k);
    if (to_type == BF16)
      for (int i = 0; i < 32; i++) ((u16*)y)[k + i] = f32_to_bf16(values[i]);
  }
}

}  // namespace
}  // namespace psi

PSI_API i32 psi_block_round_ref(void* y, const void* x, i32 format, i32 to, f64 count) {
  psi::round_blocks(y, (const float*)x, format, to, 0, (i64)count);
  return PSI_OK;
}

PSI_API i32 psi_block_round(void* y, const void* x, i32 format, i32 to, f64 count) {
  using namespace psi;
  PSI_OPENED("psi_block_round");
  const bool known = (format == MXFP4 || format == Q8_0) && (to == F32 || to == BF16);
  if (!y || !x || !known || !(count >= 0) || (i64)count % 32 != 0)
    return fail(PSI_INVALID, "[psi_block_round] expected pointers, MXFP4 or Q8_0 to f32 or bf16, and whole blocks of 32, got types %d and %d, count %.0f.", format, to, count);
  const i64 n = (i64)count;
  parallel((n + PIECE - 1) / PIECE, [&](i64 task, int) { round_blocks(y, (const float*)x, format, to, task * PIECE, (task + 1) * PIECE < n ? (task + 1) * PIECE : n); });
  return PSI_OK;
}
#endif
