/* psi_mix, psi_mix_grad, psi_multiply: see mix.metal. */
#include "mix.h"

#include "train.h"

static i32 check(const char* where, i32 width, i32 dtype, u32 halves, f64 count) {
  PSI_TRY(psi_check_count(where, count));
  PSI_TRY(psi_check_numbers(where, dtype, halves));
  if (width < 1 || (i64)count % width) return psi_fail(PSI_INVALID, "[%s] expected whole rows, got width %d, count %.0f.", where, width, count);
  return PSI_OK;
}

static PsiLaunch mixing(const char* kernel, bool b, bool wa, bool wb) {
  PsiLaunch l = psi_number_kernel("mix", kernel);
  psi_constant_bool(&l, 0, b);
  psi_constant_bool(&l, 1, wa);
  psi_constant_bool(&l, 2, wb);
  return l;
}

static i32 launch_mix(PsiNumbers y, PsiNumbers a, PsiNumbers b, const void* wa, const void* wb, i64 width, i64 count, f64 alpha, f64 beta) {
  PsiLaunch l = mixing("mix_f32", b.p != NULL, wa != NULL, wb != NULL);
  psi_write_numbers(&l, 0, y, (f64)count);
  psi_read_numbers(&l, 1, a, (f64)count);
  psi_read_numbers(&l, 2, b, (f64)count);
  psi_read(&l, 3, wa, wa ? 4.0 * width : 0);
  psi_read(&l, 4, wb, wb ? 4.0 * width : 0);
  /* without weights rows do not matter: wider ones fill threadgroups */
  i64 wide = wa || wb ? width : count, threads = psi_row_threads(wide);
  MixParams p = {(u32)(count / wide), (u32)wide, (f32)alpha, (f32)beta};
  psi_params(&l, 5, &p, sizeof p);
  return psi_launch(&l, PSI_DIVIDE_UP(wide, threads), count / wide, 1, (i32)threads, 1, 1);
}

static i32 launch_weight_grad(void* dw, PsiNumbers dy, PsiNumbers x, i64 width, i64 count, f64 scale) {
  PsiLaunch l = mixing("mix_weight_grad_f32", false, false, false);
  psi_write(&l, 0, dw, 4.0 * width);
  psi_read_numbers(&l, 1, dy, (f64)count);
  psi_read_numbers(&l, 2, x, (f64)count);
  MixParams p = {(u32)(count / width), (u32)width, (f32)scale, 0};
  psi_params(&l, 3, &p, sizeof p);
  return psi_launch(&l, PSI_DIVIDE_UP(width, 32), 1, 1, 32, 1, 1);
}

PSI_API i32 psi_mix(void* y, const void* a, const void* b, const void* wa, const void* wb, i32 width, i32 dtype, f64 count, f64 alpha, f64 beta) {
  PSI_TRY(check("psi_mix", width, dtype, 0x7, count));
  if (count == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_mix", y, a));
  if (wb && !b) return psi_fail(PSI_INVALID, "[psi_mix] expected b where wb is given, got null.");
  return launch_mix(psi_numbers(y, dtype, 0), psi_numbers(a, dtype, 1), psi_numbers(b, dtype, 2), wa, wb, width, (i64)count, alpha, beta);
}

PSI_API i32 psi_mix_grad(void* da, void* db, void* dwa, void* dwb, const void* dy, const void* a, const void* b, const void* wa, const void* wb, i32 width,
                         i32 dtype, f64 count, f64 alpha, f64 beta) {
  PSI_TRY(check("psi_mix_grad", width, dtype, 0x73, count));
  if (count == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_mix_grad", dy));
  if ((dwa && !a) || (dwb && !b)) return psi_fail(PSI_INVALID, "[psi_mix_grad] expected what weights multiply where their gradient is wanted, got null.");
  const PsiNumbers up = psi_numbers(dy, dtype, 4), none = {NULL, false};
  if (da) PSI_TRY(launch_mix(psi_numbers(da, dtype, 0), up, none, wa, NULL, width, (i64)count, alpha, 0));
  if (db) PSI_TRY(launch_mix(psi_numbers(db, dtype, 1), up, none, wb, NULL, width, (i64)count, beta, 0));
  if (dwa) PSI_TRY(launch_weight_grad(dwa, up, psi_numbers(a, dtype, 5), width, (i64)count, alpha));
  if (dwb) PSI_TRY(launch_weight_grad(dwb, up, psi_numbers(b, dtype, 6), width, (i64)count, beta));
  return PSI_OK;
}

PSI_API i32 psi_multiply(void* y, const void* a, const void* b, i32 dtype, f64 count) {
  PSI_TRY(check("psi_multiply", 1, dtype, 0x7, count));
  if (count == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_multiply", y, a, b));
  PsiLaunch l = mixing("multiply_f32", true, false, false);
  psi_write_numbers(&l, 0, psi_numbers(y, dtype, 0), count);
  psi_read_numbers(&l, 1, psi_numbers(a, dtype, 1), count);
  psi_read_numbers(&l, 2, psi_numbers(b, dtype, 2), count);
  MixParams p = {1, (u32)count, 1, 1};
  psi_params(&l, 3, &p, sizeof p);
  return psi_launch(&l, PSI_DIVIDE_UP(count, 256), 1, 1, 256, 1, 1);
}
