/* What the launchers of training's ops share: F32 alone, threads of a row, numbers that the ABI gives in f64. */
#pragma once
#include "launch.h"

/* GPUs of Apple silicon have no double, and training here has no bf16 tensors but those of gemm and cast. */
static inline i32 psi_check_f32(const char* where, i32 dtype) {
  if (dtype == PSI_F32) return PSI_OK;
  if (dtype == PSI_F64) return psi_fail(PSI_UNSUPPORTED, "[%s] expected F32 on Metal, got F64.", where);
  return psi_fail(PSI_UNSUPPORTED, "[%s] expected F32 on Metal, got type code %d.", where, dtype);
}

/* Rows (or tokens) of at least 0, the other sizes of at least 1. */
static inline i32 psi_check_rows(const char* where, i32 rows, const i32* sizes, i32 count) {
  if (rows < 0) return psi_fail(PSI_INVALID, "[%s] expected 0 or more rows, got %d.", where, rows);
  for (i32 i = 0; i < count; i++)
    if (sizes[i] < 1) return psi_fail(PSI_INVALID, "[%s] expected sizes of at least 1, got %d.", where, sizes[i]);
  return PSI_OK;
}
#define PSI_CHECK_ROWS(where, rows, ...) psi_check_rows(where, rows, (const i32[]){__VA_ARGS__}, (i32)(sizeof((const i32[]){__VA_ARGS__}) / sizeof(i32)))

/* Whole simdgroups for a row, at most 256 threads: by its width alone, as the order of sums is. */
static inline i32 psi_row_threads(i64 width) { return width >= 256 ? 256 : width <= 32 ? 32 : (i32)(PSI_DIVIDE_UP(width, 32) * 32); }

/* A number as the sum of two floats: some 48 bits of it. */
typedef struct {
  f32 high, low;
} PsiPair;
static inline PsiPair psi_pair(f64 x) {
  f32 high = (f32)x;
  f32 low = (f32)(x - (f64)high);
  return (PsiPair){high, low == low && low - low == 0 ? low : 0};
}
