/* What the training kernels share: the choice between f32 and f64, pieces of long rows, and the matrix product. */
#pragma once
#include "../../ffi/psionic_train.h"
#include "../common/types.h"

namespace psi {

/* Elements of a task in element-wise loops. */
constexpr i64 PIECE = 8192;

static inline bool is_real(i32 dtype) { return dtype == F32 || dtype == F64; }

/* Columns that the packed right-hand side is rounded up to; the widest panel of any level. */
constexpr i64 GEMM_PANEL = 48;
static inline i64 gemm_packed_floats(i64 n, i64 k) { return (n + GEMM_PANEL - 1) / GEMM_PANEL * GEMM_PANEL * k; }

/* C[i,j] (+)= sum_k A[i,k] B[k,j] (+ bias[j]); strides in elements, C's rows are `ldc` apart. Types F32 or BF16. */
struct Gemm {
  void* c;
  const void *a, *b;
  const float* bias;
  i64 ldc, a_row, a_col, b_row, b_col, m, n, k;
  i32 c_type, a_type, b_type;
  bool accumulate;
  float* packed; /* gemm_packed_floats(n, k) */
};

static inline Gemm f32_gemm(void* c, i64 ldc, const float* a, i64 a_row, i64 a_col, const float* b, i64 b_row, i64 b_col, i64 m, i64 n, i64 k, bool accumulate, float* packed) {
  return {c, a, b, nullptr, ldc, a_row, a_col, b_row, b_col, m, n, k, F32, F32, F32, accumulate, packed};
}

}  // namespace psi

/* Defined in gemm.cpp; runs on all threads. */
PSI_KERNEL(gemm_product, const Gemm& g)

/* Calls f with a null pointer of the element type of a dtype that passed is_real. */
#define PSI_WITH_REAL(dtype, T, ...)        \
  do {                                      \
    if ((dtype) == ::psi::F64) {            \
      typedef double T;                     \
      __VA_ARGS__;                          \
    } else {                                \
      typedef float T;                      \
      __VA_ARGS__;                          \
    }                                       \
  } while (0)
