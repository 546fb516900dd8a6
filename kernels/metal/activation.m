/* psi_activation, psi_activation_grad: see activation.metal. */
#include "activation.h"

#include "train.h"

static i32 check(const char* where, const void* up, i32 kind, i32 dtype, f64 count, f64 limit) {
  PSI_TRY(psi_check_count(where, count));
  PSI_TRY(psi_check_f32(where, dtype));
  if (kind < ACTIVATION_SILU || kind > ACTIVATION_RELU2 || (kind == ACTIVATION_CLAMPED && (!up || !(limit > 0))))
    return psi_fail(PSI_INVALID, "[%s] expected a kind of 0..3 and, for kind 2, up and a limit above 0, got kind %d, limit %g.", where, kind, limit);
  return PSI_OK;
}

static PsiLaunch activation(const char* kernel, i32 kind, bool up, bool gradient) {
  PsiLaunch l = psi_kernel("activation", kernel);
  psi_constant_int(&l, 0, kind);
  psi_constant_bool(&l, 1, up);
  psi_constant_bool(&l, 2, gradient);
  return l;
}

PSI_API i32 psi_activation(void* y, const void* x, const void* up, i32 kind, i32 dtype, f64 count, f64 alpha, f64 limit) {
  PSI_TRY(check("psi_activation", up, kind, dtype, count, limit));
  if (count == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_activation", y, x));
  PsiLaunch l = activation("activation_f32", kind, up != NULL, false);
  psi_write(&l, 0, y, 4 * count);
  psi_read(&l, 1, x, 4 * count);
  psi_read(&l, 2, up, up ? 4 * count : 0);
  ActivationParams p = {(u32)count, (f32)alpha, (f32)limit};
  psi_params(&l, 3, &p, sizeof p);
  return psi_launch(&l, PSI_DIVIDE_UP(count, 256), 1, 1, 256, 1, 1);
}

PSI_API i32 psi_activation_grad(void* dx, void* dup, const void* dy, const void* x, const void* up, i32 kind, i32 dtype, f64 count, f64 alpha, f64 limit) {
  PSI_TRY(check("psi_activation_grad", up, kind, dtype, count, limit));
  if (dup && !up) return psi_fail(PSI_INVALID, "[psi_activation_grad] expected up where its gradient is wanted, got null.");
  if (count == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_activation_grad", dx, dy, x));
  PsiLaunch l = activation("activation_grad_f32", kind, up != NULL, dup != NULL);
  psi_write(&l, 0, dx, 4 * count);
  psi_write(&l, 1, dup, dup ? 4 * count : 0);
  psi_read(&l, 2, dy, 4 * count);
  psi_read(&l, 3, x, 4 * count);
  psi_read(&l, 4, up, up ? 4 * count : 0);
  ActivationParams p = {(u32)count, (f32)alpha, (f32)limit};
  psi_params(&l, 5, &p, sizeof p);
  return psi_launch(&l, PSI_DIVIDE_UP(count, 256), 1, 1, 256, 1, 1);
}
