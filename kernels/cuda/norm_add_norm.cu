/*
 * sum = (x + RMS norm of delta times w) * scale; y = RMS norm of sum times next, where there is a next: rows f32 [rows, width], sum
 * may be x. The bits of psi_rms_norm, psi_add_scaled and psi_rms_norm (norm_join.cuh).
 */
#include "norm_join.cuh"

PSI_API i32 psi_norm_add_norm(void* sum, void* y, const void* x, const void* delta, const void* w, const void* next, i32 rows, i32 width, f32 eps, f32 scale) {
  using namespace psi;
  const char* op = "psi_norm_add_norm";
  if (!sum || !x || !delta || !w || !y != !next) return fail(PSI_INVALID, "[%s] expected non-null pointers, and y where there is a next.", op);
  return launch_joined_norms<false>(op, {(float*)sum, (float*)y, (const float*)x, (const float*)delta, (const float*)w, (const float*)next, width, eps, scale}, rows);
}
