/* psi_rms_norm_gated: see rms_norm_gated.metal. */
#include "rms_norm_gated.h"

#include "launch.h"

PSI_API i32 psi_rms_norm_gated(void* y, const void* x, const void* gate, const void* w, i32 rows, i32 heads, i32 width, i32 gate_stride, i32 gate_offset, f32 eps) {
  if (rows < 0 || heads < 1 || width < 1 || gate_offset < 0 || gate_offset + (i64)heads * width > gate_stride)
    return psi_fail(PSI_INVALID, "[psi_rms_norm_gated] expected the gate inside its rows, got rows %d, heads %d, width %d, stride %d, offset %d.", rows, heads, width,
                    gate_stride, gate_offset);
  if (rows == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_rms_norm_gated", y, x, gate, w));
  const f64 all = 4.0 * rows * heads * width;
  PsiLaunch l = psi_kernel("rms_norm_gated", "rms_norm_gated_f32");
  psi_write(&l, 0, y, all);
  psi_read(&l, 1, x, all);
  psi_read(&l, 2, gate, 4.0 * rows * gate_stride);
  psi_read(&l, 3, w, 4.0 * width);
  RmsNormGatedParams p = {heads, width, gate_stride, gate_offset, eps};
  psi_params(&l, 4, &p, sizeof p);
  return psi_launch(&l, heads, rows, 1, 32, 1, 1);
}
