/* psi_activation, psi_activation_grad: see activation.metal. */
#include "activation.h"

#include "train.h"

static i32 check(const char* where, const void* up, i32 kind, i32 dtype, u32 halves, f64 count, f64 limit) {
  PSI_TRY(psi_check_count(where, count));
  PSI_TRY(psi_check_numbers(where, dtype, halves));
  if (kind < ACTIVATION_SILU || kind > ACTIVATION_RELU2 || (kind == ACTIVATION_CLAMPED && (!up || !(limit > 0))))
    return psi_fail(PSI_INVALID, "[%s] expected a kind of 0..3 and, for kind 2, up and a limit above 0, got kind %d, limit %g.", where, kind, limit);
  return PSI_OK;
}

static PsiLaunch activation(const char* kernel, i32 kind, bool up, bool gradient) {
  PsiLaunch l = psi_number_kernel("activation", kernel);
  psi_constant_int(&l, 0, kind);
  psi_constant_bool(&l, 1, up);
  psi_constant_bool(&l, 2, gradient);
  return l;
}

PSI_API i32 psi_activation(void* y, const void* x, const void* up, i32 kind, i32 dtype, f64 count, f64 alpha, f64 limit) {
  PSI_TRY(check("psi_activation", up, kind, dtype, 0x7, count, limit));
  if (count == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_activation", y, x));
  PsiLaunch l = activation("activation_f32", kind, up != NULL, false);
  psi_write_numbers(&l, 0, psi_numbers(y, dtype, 0), count);
  psi_read_numbers(&l, 1, psi_numbers(x, dtype, 1), count);
  psi_read_numbers(&l, 2, psi_numbers(up, dtype, 2), count);
  ActivationParams p = {(u32)count, (f32)alpha, (f32)limit};
  psi_params(&l, 3, &p, sizeof p);
  return psi_launch(&l, PSI_DIVIDE_UP(count, 256), 1, 1, 256, 1, 1);
}

PSI_API i32 psi_activation_grad(void* dx, void* dup, const void* dy, const void* x, const void* up, i32 kind, i32 dtype, f64 count, f64 alpha, f64 limit) {
  PSI_TRY(check("psi_activation_grad", up, kind, dtype, 0x1f, count, limit));
  if (dup && !up) return psi_fail(PSI_INVALID, "[psi_activation_grad] expected up where its gradient is wanted, got null.");
  if (count == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_activation_grad", dx, dy, x));
  PsiLaunch l = activation("activation_grad_f32", kind, up != NULL, dup != NULL);
  psi_write_numbers(&l, 0, psi_numbers(dx, dtype, 0), count);
  psi_write_numbers(&l, 1, psi_numbers(dup, dtype, 1), count);
  psi_read_numbers(&l, 2, psi_numbers(dy, dtype, 2), count);
  psi_read_numbers(&l, 3, psi_numbers(x, dtype, 3), count);
  psi_read_numbers(&l, 4, psi_numbers(up, dtype, 4), count);
  ActivationParams p = {(u32)count, (f32)alpha, (f32)limit};
  psi_params(&l, 5, &p, sizeof p);
  return psi_launch(&l, PSI_DIVIDE_UP(count, 256), 1, 1, 256, 1, 1);
}
