/*
 * Products of rows grouped by expert with one matrix per expert, forward and for both gradients (modes in
 * psionic_train.h), by the kernels of gemm_mma.cu: tiles of rows are counted on the device, from `starts`.
 */
#include "gemm.h"

PSI_API i32 psi_grouped_gemm(void* c, const void* a, const void* w, const void* bias, const void* starts, void*, i32 mode, i32 rows, i32 experts, i32 outputs, i32 columns, i32 dtype, f64) {
  using namespace psi;
  PSI_REFUSE_F64("psi_grouped_gemm", dtype);
  if (!c || !a || !w || !starts || rows < 0 || experts < 1 || outputs < 1 || columns < 1 || mode < 0 || mode > 2 || (bias && mode != 0) || half_at(dtype, 3))
    return fail(PSI_INVALID, "[psi_grouped_gemm] expected pointers, a bias in f32, a mode of 0..2 and positive sizes, got mode %d, rows %d, experts %d, outputs %d, columns %d.", mode, rows, experts, outputs, columns);
  const bool a_half = half_at(dtype, 1), w_half = half_at(dtype, 2);
  const i64 matrix = (i64)outputs * columns;
  Gemm g = {};
  g.c = {c, half_at(dtype, 0)};
  g.bias = (const float*)bias;
  g.starts = (const i32*)starts;
  g.mode = mode, g.experts = experts, g.batch = 1, g.m = rows;
  if (mode == 0) {
    g.a = gemm_side(a, a_half, true, columns, 0), g.b = gemm_side(w, w_half, true, columns, matrix);
    g.n = outputs, g.k = columns, g.c_pitch = outputs;
  } else if (mode == 1) {
    g.a = gemm_side(a, a_half, true, outputs, 0), g.b = gemm_side(w, w_half, false, columns, matrix);
    g.n = columns, g.k = outputs, g.c_pitch = columns;
  } else {
    g.a = gemm_side(a, a_half, false, outputs, 0), g.b = gemm_side(w, w_half, false, columns, 0);
    g.m = outputs, g.n = columns, g.k = rows, g.c_pitch = columns, g.c_batch = matrix, g.batch = experts;
    g.add = true;
  }
  return gemm_any("psi_grouped_gemm", g);
}
