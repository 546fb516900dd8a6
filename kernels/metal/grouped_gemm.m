/* psi_grouped_gemm: one matrix per expert over rows grouped by expert, the product of gemm.metal. */
#include "gemm.h"
#include "gemm_launch.h"

PSI_API i32 psi_grouped_gemm(void* c, const void* a, const void* w, const void* bias, const void* starts, void* scratch, i32 mode, i32 rows, i32 experts,
                             i32 outputs, i32 columns, i32 dtype, f64 scratch_bytes) {
  (void)scratch;
  (void)scratch_bytes;
  PSI_TRY(PSI_CHECK_ROWS("psi_grouped_gemm", rows, experts, outputs, columns));
  PSI_TRY(psi_check_numbers("psi_grouped_gemm", dtype, 0x7));
  if (mode < 0 || mode > 2 || (bias && mode != 0)) return psi_fail(PSI_INVALID, "[psi_grouped_gemm] expected a mode of 0..2, and bias in mode 0 alone, got mode %d.", mode);
  PSI_TRY(PSI_CHECK_POINTERS("psi_grouped_gemm", c, a, w, starts));
  if (rows == 0) return PSI_OK;
  PsiGemm g = {.c = psi_numbers(c, dtype, 0), .a = psi_numbers(a, dtype, 1), .b = psi_numbers(w, dtype, 2), .bias = bias, .starts = starts, .batch = experts, .groups = mode == 2 ? GEMM_SUMS : GEMM_ROWS};
  g.m = mode == 2 ? outputs : rows;
  g.n = mode == 0 ? outputs : columns;
  g.k = mode == 0 ? columns : mode == 1 ? outputs : rows;
  g.trans_a = mode == 2;
  g.trans_b = mode == 0;
  g.accumulate = mode == 2;
  return psi_gemm_product(&g);
}
