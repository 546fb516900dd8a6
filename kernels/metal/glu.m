/* psi_glu: see glu.metal. */
#include "glu.h"

#include "launch.h"

PSI_API i32 psi_glu(void* y, const void* gate, const void* up, i32 rows, i32 width, i32 gate_stride, i32 up_stride, i32 kind, f32 alpha, f32 limit) {
  if (rows < 0 || width < 1 || gate_stride < width || up_stride < width)
    return psi_fail(PSI_INVALID, "[psi_glu] expected strides of at least the width %d, got %d and %d.", width, gate_stride, up_stride);
  if (kind < 0 || kind > 2) return psi_fail(PSI_INVALID, "[psi_glu] expected kind 0, 1 or 2, got %d.", kind);
  if (rows == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_glu", y, gate, up));
  PsiLaunch l = psi_kernel("glu", "glu_f32");
  psi_write(&l, 0, y, 4.0 * rows * width);
  /* a half of rows that hold both ends before the row does */
  psi_read(&l, 1, gate, 4.0 * ((f64)(rows - 1) * gate_stride + width));
  psi_read(&l, 2, up, 4.0 * ((f64)(rows - 1) * up_stride + width));
  GluParams p = {width, gate_stride, up_stride, kind, alpha, limit};
  psi_params(&l, 3, &p, sizeof p);
  return psi_launch(&l, PSI_DIVIDE_UP(width, 128), rows, 1, 128, 1, 1);
}
