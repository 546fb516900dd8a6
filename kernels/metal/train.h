/* What the launchers of training's ops share: F32 and BF16 tensors, threads of a row, numbers that the ABI gives in f64. */
#pragma once
#include "launch.h"

/* Type codes of a call are F32, or PSI_MIXED plus a bit for each pointer that is bf16. The function constant is numbers.h's. */
enum { PSI_MIXED = 256, PSI_HALVES = 23 };

/* A tensor of a call by its place among the pointers. */
typedef struct {
  const void* p;
  bool half;
} PsiNumbers;
static inline PsiNumbers psi_numbers(const void* p, i32 dtype, i32 place) {
  return (PsiNumbers){p, dtype >= PSI_MIXED && ((u32)(dtype - PSI_MIXED) >> place & 1)};
}
static inline i32 psi_type_of(PsiNumbers t) { return t.half ? PSI_BF16 : PSI_F32; }
/* The tensor from element i on. */
static inline PsiNumbers psi_numbers_from(PsiNumbers t, i64 i) { return (PsiNumbers){(const u8*)t.p + (t.half ? 2 : 4) * i, t.half}; }

/* F32, or bf16 where `may` has the pointer's bit: GPUs of Apple silicon have no double; sums, statistics and gains are f32. */
static inline i32 psi_check_numbers(const char* where, i32 dtype, u32 may) {
  if (dtype == PSI_F32) return PSI_OK;
  if (dtype == PSI_F64) return psi_fail(PSI_UNSUPPORTED, "[%s] expected F32 or BF16 on Metal, got F64.", where);
  u32 halves = (u32)(dtype - PSI_MIXED);
  if (dtype < PSI_MIXED || halves >> 16) return psi_fail(PSI_UNSUPPORTED, "[%s] expected F32, or 256 and bits of pointers, on Metal, got type code %d.", where, dtype);
  if (halves & ~may) return psi_fail(PSI_UNSUPPORTED, "[%s] expected BF16 for pointers of the bits 0x%x alone, got 0x%x.", where, may, halves);
  return PSI_OK;
}
static inline i32 psi_check_f32(const char* where, i32 dtype) { return psi_check_numbers(where, dtype, 0); }

/* A kernel of a file that includes numbers.h, and its tensors of `count` elements; null is an optional one that is not given. */
static inline PsiLaunch psi_number_kernel(const char* stem, const char* kernel) {
  PsiLaunch l = psi_kernel(stem, kernel);
  psi_constant_uint(&l, PSI_HALVES, 0);
  return l;
}
static inline f64 psi_note_numbers(PsiLaunch* l, i32 index, PsiNumbers t, f64 count) {
  if (t.half) psi_constant_uint(l, PSI_HALVES, l->constants[PSI_HALVES].bits | 1u << index);
  return t.p ? (t.half ? 2 : 4) * count : 0;
}
static inline void psi_read_numbers(PsiLaunch* l, i32 index, PsiNumbers t, f64 count) { psi_read(l, index, t.p, psi_note_numbers(l, index, t, count)); }
static inline void psi_write_numbers(PsiLaunch* l, i32 index, PsiNumbers t, f64 count) { psi_write(l, index, (void*)t.p, psi_note_numbers(l, index, t, count)); }

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
