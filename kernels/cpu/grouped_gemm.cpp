/*
 * Products of rows grouped by expert with one matrix per expert, forward and for both gradients (modes in
 * psionic_train.h). Each expert's rows are one product of gemm.cpp; an expert without rows leaves its place alone.
 */
#include "train.h"

#ifdef PSI_LAUNCHER
static i32 check_groups(const char* where, const i32* starts, i32 groups, i32 rows) {
  bool fits = starts[0] == 0 && starts[groups] == rows;
  for (i32 e = 0; e < groups; e++) fits = fits && starts[e] <= starts[e + 1];
  return fits ? PSI_OK : psi::fail(PSI_INVALID, "[%s] expected ascending starts from 0 to %d.", where, rows);
}

template <class T>
static void plain(T* c, const T* a, const T* w, const T* bias, const i32* starts, i32 mode, i64 experts, i64 outputs, i64 columns) {
  for (i64 e = 0; e < experts; e++) {
    const i64 from = starts[e], to = starts[e + 1];
    if (mode == 2) {
      for (i64 o = 0; o < outputs; o++)
        for (i64 k = 0; k < columns; k++) {
          double sum = 0;
          for (i64 r = from; r < to; r++) sum += (double)a[r * outputs + o] * w[r * columns + k];
          c[(e * outputs + o) * columns + k] += (T)sum;
        }
      continue;
    }
    const T* matrix = w + e * outputs * columns;
    for (i64 r = from; r < to; r++) {
      const i64 n = mode == 0 ? outputs : columns, inner = mode == 0 ? columns : outputs;
      for (i64 j = 0; j < n; j++) {
        double sum = bias ? bias[e * outputs + j] : 0;
        for (i64 p = 0; p < inner; p++) sum += (double)a[r * inner + p] * matrix[mode == 0 ? j * columns + p : p * columns + j];
        c[r * n + j] = (T)sum;
      }
    }
  }
}

PSI_API i32 psi_grouped_gemm_ref(void* c, const void* a, const void* w, const void* bias, const void* starts, void*, i32 mode, i32, i32 experts, i32 outputs, i32 columns, i32 dtype, f64) {
  PSI_WITH_REAL(dtype, T, plain((T*)c, (const T*)a, (const T*)w, (const T*)bias, (const i32*)starts, mode, experts, outputs, columns));
  return PSI_OK;
}

PSI_API i32 psi_grouped_gemm(void* c, const void* a, const void* w, const void* bias, const void* starts, void* scratch, i32 mode, i32 rows, i32 experts, i32 outputs, i32 columns, i32 dtype, f64 scratch_bytes) {
  PSI_OPENED("psi_grouped_gemm");
  if (!c || !a || !w || !starts || rows < 0 || experts < 1 || outputs < 1 || columns < 1 || mode < 0 || mode > 2 || !psi::is_real(dtype) || (bias && mode != 0))
    return psi::fail(PSI_INVALID, "[psi_grouped_gemm] expected pointers, f32 or f64, a mode of 0..2 and positive sizes, got mode %d, rows %d, experts %d, outputs %d, columns %d, dtype %d.", mode, rows, experts, outputs, columns, dtype);
  const i32* at = (const i32*)starts;
  i32 status = check_groups("psi_grouped_gemm", at, experts, rows);
  if (status != PSI_OK) return status;
  if (dtype == psi::F64) return psi_grouped_gemm_ref(c, a, w, bias, starts, nullptr, mode, rows, experts, outputs, columns, dtype, 0);
  const i64 wide = outputs > columns ? outputs : columns, inner = wide > rows ? wide : rows;
  const f64 needed = 4.0 * (f64)psi::gemm_packed_floats(wide, inner);
  if (!scratch || scratch_bytes < needed) return psi::fail(PSI_INVALID, "[psi_grouped_gemm] expected %.0f bytes of scratch, got %.0f.", needed, scratch_bytes);
  for (i64 e = 0; e < experts; e++) {
    const i64 from = at[e], count = at[e + 1] - from, matrix = e * outputs * columns;
    if (count == 0) continue;
    float *out = (float*)c, *packed = (float*)scratch;
    const float *in = (const float*)a, *weights = (const float*)w;
    psi::Gemm g;
    if (mode == 0) {
      g = psi::f32_gemm(out + from * outputs, outputs, in + from * columns, columns, 1, weights + matrix, 1, columns, count, outputs, columns, false, packed);
      g.bias = bias ? (const float*)bias + e * outputs : nullptr;
    } else if (mode == 1) {
      g = psi::f32_gemm(out + from * columns, columns, in + from * outputs, outputs, 1, weights + matrix, columns, 1, count, columns, outputs, false, packed);
    } else {
      g = psi::f32_gemm(out + matrix, columns, in + from * outputs, 1, outputs, weights + from * columns, columns, 1, outputs, columns, count, true, packed);
    }
    PSI_RUN(gemm_product)(g);
  }
  return PSI_OK;
}
#endif
