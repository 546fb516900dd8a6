/* What a matrix product of training is asked for, for its launcher and its kernels: C [m,n] (+)= A' [m,k] B' [k,n]. */
#pragma once
#include "train.cuh"

namespace psi {

/* A' or B', seen as rows (of C, or of C's columns) by k. */
struct GemmSide {
  const void* p;
  bool half;
  bool rows; /* a row's k elements lie side by side; otherwise the elements of one k do */
  bool fast; /* whole groups of 16 elements are aligned */
  i64 pitch; /* elements between rows, or between ks */
  i64 batch; /* elements between matrices */
};

struct Gemm {
  GemmSide a, b;
  Out c;
  const float* bias; /* [n], or [experts, n] */
  i64 c_pitch, c_batch;
  i32 m, n, k, batch;
  bool add;
  /* Rows grouped by expert: those of expert e are starts[e] ... of A and C (mode 0, 1), or its ks (mode 2). */
  const i32* starts;
  i32 mode, experts;
};

inline GemmSide gemm_side(const void* p, bool half, bool rows, i64 pitch, i64 batch) {
  const i64 whole = half ? 8 : 4;
  return {p, half, rows, pitch % whole == 0 && batch % whole == 0 && (uintptr_t)p % 16 == 0, pitch, batch};
}

/* gemm_mma.cu: for all types and shapes; products of f32 and f32 in f32, all others from bf16. */
i32 gemm_any(const char* op, const Gemm& g);
/* gemm_wgmma.cu: Hopper's form, for bf16 sides that a tensor map can describe. `scratch` holds sums of parts of k. */
bool gemm_fits_wgmma(const Gemm& g);
i32 gemm_wgmma(const char* op, const Gemm& g, void* scratch, f64 scratch_bytes);

}  // namespace psi
