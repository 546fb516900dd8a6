/* psi_rms_norm, psi_add_rms_norm: see rms_norm.metal. */
#include "rms_norm.h"

#include "launch.h"

static i32 launch(void* y, const void* x, const void* w, void* sum, const void* delta, i32 rows, RmsNormParams p) {
  f64 all = 4.0 * rows * p.stride;
  PsiLaunch l = psi_kernel("rms_norm", "rms_norm_f32");
  psi_constant_bool(&l, 0, w != NULL);
  psi_constant_bool(&l, 1, delta != NULL);
  psi_write(&l, 0, y, all);
  psi_read(&l, 1, x, all);
  psi_read(&l, 2, w, w ? 4.0 * p.width : 0);
  psi_params(&l, 3, &p, sizeof p);
  psi_write(&l, 4, sum, sum ? all : 0);
  psi_read(&l, 5, delta, delta ? all : 0);
  return psi_launch(&l, p.groups, rows, 1, 256, 1, 1);
}

PSI_API i32 psi_rms_norm(void* y, const void* x, const void* w, i32 rows, i32 stride, i32 offset, i32 groups, i32 width, f32 eps) {
  PSI_TRY(PSI_CHECK_SIZES("psi_rms_norm", rows, stride, offset, groups, width));
  if (offset + (i64)groups * width > stride)
    return psi_fail(PSI_INVALID, "[psi_rms_norm] expected groups inside of rows of %d, got %d of %d from %d.", stride, groups, width, offset);
  if (rows == 0 || groups == 0 || width == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_rms_norm", y, x));
  return launch(y, x, w, NULL, NULL, rows, (RmsNormParams){stride, offset, groups, width, eps});
}

PSI_API i32 psi_add_rms_norm(void* sum, void* y, const void* x, const void* delta, const void* w, i32 rows, i32 width, f32 eps) {
  PSI_TRY(PSI_CHECK_SIZES("psi_add_rms_norm", rows, width));
  if (rows == 0 || width == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_add_rms_norm", sum, y, x, delta, w));
  return launch(y, x, w, sum, delta, rows, (RmsNormParams){width, 0, 1, width, eps});
}
