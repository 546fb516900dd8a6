/*
 * y[r,k] = value of weight (r,k): file layout [rows, columns] of any type to f32, bit for bit what ggml computes
 * (products and differences in f32 in the order written here, no fused operations). Plain loops: this is the reference
 * for packing and for the products. F64 input is rounded to f32.
 */
#include "../common/half.h"
#include "../common/pool.h"
#include "../common/types.h"
#include "rows.h"

PSI_KERNEL(dequantize_rows, float* y, const u8* x, i64 rows, i64 columns, i32 dtype)

namespace psi::PSI_ISA {

static u16 u16_of(const u8* p) {
  u16 v;
  memcpy(&v, p, 2);
  return v;
}
static u32 u32_of(const u8* p) {
  u32 v;
  memcpy(&v, p, 4);
  return v;
}
static float half_of(const u8* p) { return f16_to_f32(u16_of(p)); }

static void q8_0(float* y, const u8* b) {
  float d = half_of(b);
  for (int i = 0; i < 32; i++) y[i] = d * (float)(i8)b[2 + i];
}
static void q4_0(float* y, const u8* b) {
  float d = half_of(b);
  for (int j = 0; j < 16; j++) {
    y[j] = d * (float)((b[2 + j] & 15) - 8);
    y[j + 16] = d * (float)((b[2 + j] >> 4) - 8);
  }
}
static void q4_1(float* y, const u8* b) {
  float d = half_of(b), m = half_of(b + 2);
  for (int j = 0; j < 16; j++) {
    y[j] = d * (float)(b[4 + j] & 15) + m;
    y[j + 16] = d * (float)(b[4 + j] >> 4) + m;
  }
}
static void q5_0(float* y, const u8* b) {
  float d = half_of(b);
  u32 high = u32_of(b + 2);
  for (int j = 0; j < 16; j++) {
    y[j] = d * (float)((int)((b[6 + j] & 15) | ((high >> j) & 1) << 4) - 16);
    y[j + 16] = d * (float)((int)((b[6 + j] >> 4) | ((high >> (j + 16)) & 1) << 4) - 16);
  }
}
static void q5_1(float* y, const u8* b) {
  float d = half_of(b), m = half_of(b + 2);
  u32 high = u32_of(b + 4);
  for (int j = 0; j < 16; j++) {
    y[j] = d * (float)((b[8 + j] & 15) | ((high >> j) & 1) << 4) + m;
    y[j + 16] = d * (float)((b[8 + j] >> 4) | ((high >> (j + 16)) & 1) << 4) + m;
  }
}
static void iq4_nl(float* y, const u8* b) {
  float d = half_of(b);
  for (int j = 0; j < 16; j++) {
    y[j] = d * (float)IQ4_LEVELS[b[2 + j] & 15];
    y[j + 16] = d * (float)IQ4_LEVELS[b[2 + j] >> 4];
  }
}
static void mxfp4(float* y, const u8* b) {
  float d = bits_f32(mxfp4_scale_bits(b[0]));
  for (int j = 0; j < 16; j++) {
    y[j] = d * (float)FP4_LEVELS[b[1 + j] & 15];
    y[j + 16] = d * (float)FP4_LEVELS[b[1 + j] >> 4];
  }
}

static void q2_k(float* y, const u8* b) {
  float d = half_of(b + 80), dmin = half_of(b + 82);
  for (int s = 0; s < 16; s++) {
    int h = s / 8, j = s / 2 % 4, p = s % 2;
    float scale = d * (float)(b[s] & 15), min = dmin * (float)(b[s] >> 4);
    for (int l = 0; l < 16; l++) y[16 * s + l] = scale * (float)((b[16 + 32 * h + 16 * p + l] >> (2 * j)) & 3) - min;
  }
}
static void q3_k(float* y, const u8* b) {
  float d = half_of(b + 108);
  for (int s = 0; s < 16; s++) {
    int h = s / 8, j = s / 2 % 4, p = s % 2;
    int low = (s < 8 ? b[96 + s] : b[96 + s - 8] >> 4) & 15;
    int high = (b[104 + s % 4] >> (2 * (s / 4))) & 3;
    float scale = d * (float)((low | high << 4) - 32);
    for (int l = 0; l < 16; l++) {
      int q = ((b[32 + 32 * h + 16 * p + l] >> (2 * j)) & 3) - ((b[16 * p + l] >> (4 * h + j)) & 1 ? 0 : 4);
      y[16 * s + l] = scale * (float)q;
    }
  }
}
/* scale and min number j of the 12 packed bytes of Q4_K and Q5_K */
static void scale_min(const u8* s, int j, int* scale, int* min) {
  if (j < 4) {
    *scale = s[j] & 63;
    *min = s[j + 4] & 63;
  } else {
    *scale = (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
    *min = (s[j + 4] >> 4) | (s[j] >> 6) << 4;
  }
}
static void q4_k(float* y, const u8* b) {
  float d = half_of(b), dmin = half_of(b + 2);
  for (int j = 0; j < 8; j++) {
    int sc, mn;
    scale_min(b + 4, j, &sc, &mn);
    float scale = d * (float)sc, min = dmin * (float)mn;
    for (int l = 0; l < 32; l++) y[32 * j + l] = scale * (float)((b[16 + 32 * (j / 2) + l] >> (j % 2 * 4)) & 15) - min;
  }
}
static void q5_k(float* y, const u8* b) {
  float d = half_of(b), dmin = half_of(b + 2);
  for (int j = 0; j < 8; j++) {
    int sc, mn;
    scale_min(b + 4, j, &sc, &mn);
    float scale = d * (float)sc, min = dmin * (float)mn;
    for (int l = 0; l < 32; l++) {
      int q = ((b[48 + 32 * (j / 2) + l] >> (j % 2 * 4)) & 15) | ((b[16 + l] >> j) & 1) << 4;
      y[32 * j + l] = scale * (float)q - min;
    }
  }
}
static void q6_k(float* y, const u8* b) {
  float d = half_of(b + 208);
  for (int s = 0; s < 16; s++) {
    int h = s / 8, part = s / 2 % 4;
    float scale = d * (float)(i8)b[192 + s];
    for (int l = 0; l < 16; l++) {
      int i = 16 * (s % 2) + l; /* 0..31 within the part */
      int low = (b[64 * h + 32 * (part % 2) + i] >> (part / 2 * 4)) & 15;
      int high = (b[128 + 32 * h + i] >> (2 * part)) & 3;
      y[16 * s + l] = scale * (float)((low | high << 4) - 32);
    }
  }
}
static void iq4_xs(float* y, const u8* b) {
  float d = half_of(b);
  u32 high = u16_of(b + 2);
  for (int j = 0; j < 8; j++) {
    int ls = (int)(((b[4 + j / 2] >> (4 * (j % 2))) & 15) | ((high >> (2 * j)) & 3) << 4);
    float scale = d * (float)(ls - 32);
    for (int l = 0; l < 16; l++) {
      y[32 * j + l] = scale * (float)IQ4_LEVELS[b[8 + 16 * j + l] & 15];
      y[32 * j + 16 + l] = scale * (float)IQ4_LEVELS[b[8 + 16 * j + l] >> 4];
    }
  }
}

template <int COLUMNS, int BYTES>
static void blocks(float* y, const u8* x, i64 columns, void (*one)(float*, const u8*)) {
  for (i64 i = 0; i < columns / COLUMNS; i++) one(y + i * COLUMNS, x + i * BYTES);
}

void dequantize_row(float* y, const u8* x, i64 columns, i32 dtype) {
  switch (dtype) {
    case F32: memcpy(y, x, (size_t)columns * 4); break;
    case F64:
      for (i64 i = 0; i < columns; i++) {
        double v;
        memcpy(&v, x + 8 * i, 8);
        y[i] = (float)v;
      }
      break;
    case F16:
      for (i64 i = 0; i < columns; i++) y[i] = half_of(x + 2 * i);
      break;
    case BF16:
      for (i64 i = 0; i < columns; i++) y[i] = bf16_to_f32(u16_of(x + 2 * i));
      break;
    case Q8_0: blocks<32, 34>(y, x, columns, q8_0); break;
    case Q4_0: blocks<32, 18>(y, x, columns, q4_0); break;
    case Q4_1: blocks<32, 20>(y, x, columns, q4_1); break;
    case Q5_0: blocks<32, 22>(y, x, columns, q5_0); break;
    case Q5_1: blocks<32, 24>(y, x, columns, q5_1); break;
    case IQ4_NL: blocks<32, 18>(y, x, columns, iq4_nl); break;
    case MXFP4: blocks<32, 17>(y, x, columns, mxfp4); break;
    case Q2_K: blocks<256, 84>(y, x, columns, q2_k); break;
    case Q3_K: blocks<256, 110>(y, x, columns, q3_k); break;
    case Q4_K: blocks<256, 144>(y, x, columns, q4_k); break;
    case Q5_K: blocks<256, 176>(y, x, columns, q5_k); break;
    case Q6_K: blocks<256, 210>(y, x, columns, q6_k); break;
    case IQ4_XS: blocks<256, 136>(y, x, columns, iq4_xs); break;
  }
}

void dequantize_rows(float* y, const u8* x, i64 rows, i64 columns, i32 dtype) {
  const i64 bytes = row_bytes(*find_type(dtype), columns);
  parallel(rows, [&](i64 r, int) { dequantize_row(y + r * columns, x + r * bytes, columns, dtype); });
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
static i32 check_dequantize(const char* where, const void* y, const void* x, i32 rows, i32 columns, i32 dtype) {
  if (!y || !x) return psi::fail(PSI_INVALID, "[%s] expected non-null pointers.", where);
  if (rows < 0 || columns < 1) return psi::fail(PSI_INVALID, "[%s] expected rows >= 0 and columns >= 1, got %d and %d.", where, rows, columns);
  const psi::TypeInfo* type;
  return psi::check_weight_type(where, dtype, columns, &type);
}

PSI_API i32 psi_dequantize(void* y, const void* x, i32 rows, i32 columns, i32 dtype) {
  PSI_OPENED("psi_dequantize");
  i32 status = check_dequantize("psi_dequantize", y, x, rows, columns, dtype);
  if (status != PSI_OK) return status;
  PSI_RUN(dequantize_rows)((float*)y, (const u8*)x, rows, columns, dtype);
  return PSI_OK;
}

PSI_API i32 psi_dequantize_ref(void* y, const void* x, i32 rows, i32 columns, i32 dtype) {
  i32 status = check_dequantize("psi_dequantize_ref", y, x, rows, columns, dtype);
  if (status != PSI_OK) return status;
  const i64 bytes = psi::row_bytes(*psi::find_type(dtype), columns);
  for (i64 r = 0; r < rows; r++) psi::plain::dequantize_row((float*)y + r * columns, (const u8*)x + r * bytes, columns, dtype);
  return PSI_OK;
}
#endif
