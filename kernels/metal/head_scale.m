/* psi_head_scale, psi_head_scale_grad: see head_scale.metal. */
#include "head_scale.h"

#include "train.h"

static i32 check(const char* where, i32 rows, i32 heads, i32 head_dim, i32 dtype, u32 halves) {
  PSI_TRY(PSI_CHECK_ROWS(where, rows, heads, head_dim));
  PSI_TRY(psi_check_count(where, (f64)heads * head_dim));
  return psi_check_numbers(where, dtype, halves);
}

static i32 launch(PsiNumbers y, PsiNumbers x, const void* gain, i32 rows, i32 heads, i32 head_dim) {
  f64 all = (f64)rows * heads * head_dim;
  PsiLaunch l = psi_number_kernel("head_scale", "head_scale_f32");
  psi_write_numbers(&l, 0, y, all);
  psi_read_numbers(&l, 1, x, all);
  psi_read(&l, 2, gain, 4.0 * heads);
  HeadScaleParams p = {(u32)rows, (u32)heads, (u32)head_dim};
  psi_params(&l, 3, &p, sizeof p);
  i32 threads = psi_row_threads((i64)heads * head_dim);
  return psi_launch(&l, PSI_DIVIDE_UP((i64)heads * head_dim, threads), rows, 1, threads, 1, 1);
}

PSI_API i32 psi_head_scale(void* y, const void* x, const void* gain, i32 rows, i32 heads, i32 head_dim, i32 dtype) {
  PSI_TRY(check("psi_head_scale", rows, heads, head_dim, dtype, 0x3));
  if (rows == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_head_scale", y, x, gain));
  return launch(psi_numbers(y, dtype, 0), psi_numbers(x, dtype, 1), gain, rows, heads, head_dim);
}

PSI_API i32 psi_head_scale_grad(void* dx, void* dgain, const void* dy, const void* x, const void* gain, i32 rows, i32 heads, i32 head_dim, i32 dtype) {
  PSI_TRY(check("psi_head_scale_grad", rows, heads, head_dim, dtype, 0xd));
  if (rows == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_head_scale_grad", dx, dy, x, gain));
  PsiNumbers up = psi_numbers(dy, dtype, 2);
  PSI_TRY(launch(psi_numbers(dx, dtype, 0), up, gain, rows, heads, head_dim));
  if (!dgain) return PSI_OK;
  f64 all = (f64)rows * heads * head_dim;
  PsiLaunch l = psi_number_kernel("head_scale", "head_gain_grad_f32");
  psi_write(&l, 0, dgain, 4.0 * heads);
  psi_read_numbers(&l, 1, up, all);
  psi_read_numbers(&l, 2, psi_numbers(x, dtype, 3), all);
  HeadScaleParams p = {(u32)rows, (u32)heads, (u32)head_dim};
  psi_params(&l, 3, &p, sizeof p);
  return psi_launch(&l, heads, 1, 1, 32, 1, 1);
}
