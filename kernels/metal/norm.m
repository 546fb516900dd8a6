/* psi_norm, psi_norm_grad: see norm.metal. */
#include "norm.h"

#include "train.h"

/* In norm_weight_grad weight and bias are those whose gradients are wanted. */
static PsiLaunch norm(const char* kernel, bool center, bool weight, bool bias, bool adds) {
  PsiLaunch l = psi_number_kernel("norm", kernel);
  psi_constant_bool(&l, 0, center);
  psi_constant_bool(&l, 1, weight);
  psi_constant_bool(&l, 2, bias);
  psi_constant_bool(&l, 3, adds);
  return l;
}

PSI_API i32 psi_norm(void* y, void* stats, const void* x, const void* w, const void* b, i32 rows, i32 width, i32 center, i32 dtype, f64 eps) {
  PSI_TRY(PSI_CHECK_ROWS("psi_norm", rows, width));
  PSI_TRY(psi_check_numbers("psi_norm", dtype, 0x5));
  if (!(eps >= 0)) return psi_fail(PSI_INVALID, "[psi_norm] expected eps of at least 0, got %g.", eps);
  if (rows == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_norm", y, stats, x));
  PsiLaunch l = norm("norm_f32", center != 0, w != NULL, b != NULL, false);
  psi_write_numbers(&l, 0, psi_numbers(y, dtype, 0), (f64)rows * width);
  psi_write(&l, 1, stats, 8.0 * rows);
  psi_read_numbers(&l, 2, psi_numbers(x, dtype, 2), (f64)rows * width);
  psi_read(&l, 3, w, w ? 4.0 * width : 0);
  psi_read(&l, 4, b, b ? 4.0 * width : 0);
  NormParams p = {(u32)rows, (u32)width, (f32)eps};
  psi_params(&l, 5, &p, sizeof p);
  return psi_launch(&l, rows, 1, 1, psi_row_threads(width), 1, 1);
}

PSI_API i32 psi_norm_grad(void* dx, void* dw, void* db, const void* dy, const void* x, const void* w, const void* stats, i32 rows, i32 width, i32 center,
                          i32 dtype) {
  PSI_TRY(PSI_CHECK_ROWS("psi_norm_grad", rows, width));
  PSI_TRY(psi_check_numbers("psi_norm_grad", dtype, 0x19));
  if (rows == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_norm_grad", dx, dy, x, stats));
  NormParams p = {(u32)rows, (u32)width, 0};
  if (dw || db) {
    PsiLaunch l = norm("norm_weight_grad_f32", (center & 1) != 0, dw != NULL, db != NULL, false);
    psi_write(&l, 0, dw, dw ? 4.0 * width : 0);
    psi_write(&l, 1, db, db ? 4.0 * width : 0);
    psi_read_numbers(&l, 2, psi_numbers(dy, dtype, 3), (f64)rows * width);
    psi_read_numbers(&l, 3, psi_numbers(x, dtype, 4), (f64)rows * width);
    psi_read(&l, 4, stats, 8.0 * rows);
    psi_params(&l, 5, &p, sizeof p);
    PSI_TRY(psi_launch(&l, PSI_DIVIDE_UP(width, 32), 1, 1, 32, 1, 1));
  }
  PsiLaunch l = norm("norm_grad_f32", (center & 1) != 0, w != NULL, false, (center & 2) != 0);
  psi_write_numbers(&l, 0, psi_numbers(dx, dtype, 0), (f64)rows * width);
  psi_read_numbers(&l, 1, psi_numbers(dy, dtype, 3), (f64)rows * width);
  psi_read_numbers(&l, 2, psi_numbers(x, dtype, 4), (f64)rows * width);
  psi_read(&l, 3, w, w ? 4.0 * width : 0);
  psi_read(&l, 4, stats, 8.0 * rows);
  psi_params(&l, 5, &p, sizeof p);
  return psi_launch(&l, rows, 1, 1, psi_row_threads(width), 1, 1);
}
