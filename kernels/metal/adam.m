/* psi_adam, psi_sgd, psi_momentum, psi_unit_norm, psi_muon_update: see adam.metal. */
#include "adam.h"

#include "train.h"

static PsiLaunch optimiser(const char* kernel, bool has_buffer, bool nesterov) {
  PsiLaunch l = psi_kernel("adam", kernel);
  psi_constant_bool(&l, 0, has_buffer);
  psi_constant_bool(&l, 1, nesterov);
  return l;
}

PSI_API i32 psi_adam(void* p, void* m, void* v, const void* g, const void* factor, const void* rates, i32 decoupled, f64 count, f64 beta1, f64 beta2,
                     f64 eps, f64 decay) {
  PSI_TRY(psi_check_count("psi_adam", count));
  if (count == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_adam", p, m, v, g, factor, rates));
  PsiLaunch l = optimiser("adam_f32", false, false);
  psi_write(&l, 0, p, 4 * count);
  psi_write(&l, 1, m, 4 * count);
  psi_write(&l, 2, v, 4 * count);
  psi_read(&l, 3, g, 4 * count);
  psi_read(&l, 4, factor, 4);
  psi_read(&l, 5, rates, 24);
  AdamParams s = {(u32)count, (f32)beta1, (f32)beta2, (f32)eps, (f32)decay, decoupled != 0};
  psi_params(&l, 6, &s, sizeof s);
  return psi_launch(&l, PSI_DIVIDE_UP(count, 256), 1, 1, 256, 1, 1);
}

PSI_API i32 psi_sgd(void* p, void* buffer, const void* g, const void* factor, const void* rates, f64 count, f64 momentum, f64 decay) {
  PSI_TRY(psi_check_count("psi_sgd", count));
  if (count == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_sgd", p, g, factor, rates));
  PsiLaunch l = optimiser("sgd_f32", buffer != NULL, false);
  psi_write(&l, 0, p, 4 * count);
  psi_write(&l, 1, buffer, buffer ? 4 * count : 0);
  psi_read(&l, 2, g, 4 * count);
  psi_read(&l, 3, factor, 4);
  psi_read(&l, 4, rates, 8);
  SgdParams s = {(u32)count, (f32)momentum, (f32)decay};
  psi_params(&l, 5, &s, sizeof s);
  return psi_launch(&l, PSI_DIVIDE_UP(count, 256), 1, 1, 256, 1, 1);
}

PSI_API i32 psi_momentum(void* y, void* buffer, const void* g, const void* factor, const void* rates, i32 nesterov, f64 count) {
  PSI_TRY(psi_check_count("psi_momentum", count));
  if (count == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_momentum", y, buffer, g, factor, rates));
  PsiLaunch l = optimiser("momentum_f32", true, nesterov != 0);
  psi_write(&l, 0, y, 4 * count);
  psi_write(&l, 1, buffer, 4 * count);
  psi_read(&l, 2, g, 4 * count);
  psi_read(&l, 3, factor, 4);
  psi_read(&l, 4, rates, 16);
  SgdParams s = {(u32)count, 0, 0};
  psi_params(&l, 5, &s, sizeof s);
  return psi_launch(&l, PSI_DIVIDE_UP(count, 256), 1, 1, 256, 1, 1);
}

PSI_API i32 psi_unit_norm(void* y, const void* x, i32 batch, f64 count, f64 eps) {
  PSI_TRY(PSI_CHECK_SIZES("psi_unit_norm", batch));
  PSI_TRY(psi_check_count("psi_unit_norm", count));
  if (batch == 0 || count == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_unit_norm", y, x));
  PsiLaunch l = optimiser("unit_norm_f32", false, false);
  psi_write(&l, 0, y, 4 * batch * count);
  psi_read(&l, 1, x, 4 * batch * count);
  MuonParams s = {(u32)count, 0, 0, 0, 0, (f32)eps};
  psi_params(&l, 2, &s, sizeof s);
  return psi_launch(&l, batch, 1, 1, psi_row_threads((i64)count), 1, 1);
}

PSI_API i32 psi_muon_update(void* p, const void* y, const void* factor, const void* rates, f64 count, f64 scale, f64 decay) {
  PSI_TRY(psi_check_count("psi_muon_update", count));
  if (count == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_muon_update", p, y, factor, rates));
  PsiLaunch l = optimiser("muon_update_f32", false, false);
  psi_write(&l, 0, p, 4 * count);
  psi_read(&l, 1, y, 4 * count);
  psi_read(&l, 2, factor, 4);
  psi_read(&l, 3, rates, 8);
  PsiPair s = psi_pair(scale), d = psi_pair(decay);
  MuonParams m = {(u32)count, s.high, s.low, d.high, d.low, 0};
  psi_params(&l, 4, &m, sizeof m);
  return psi_launch(&l, PSI_DIVIDE_UP(count, 256), 1, 1, 256, 1, 1);
}
