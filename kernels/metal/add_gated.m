/* psi_add_gated: see add_gated.metal. */
#include "add_gated.h"

#include "launch.h"

PSI_API i32 psi_add_gated(void* y, const void* base, const void* x, const void* gate, i32 rows, i32 width) {
  PSI_TRY(PSI_CHECK_SIZES("psi_add_gated", rows, width));
  if (width < 1) return psi_fail(PSI_INVALID, "[psi_add_gated] expected rows and a width, got %d and %d.", rows, width);
  if (rows == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_add_gated", y, base, x, gate));
  const f64 all = 4.0 * rows * width;
  PsiLaunch l = psi_kernel("add_gated", "add_gated_f32");
  psi_write(&l, 0, y, all);
  psi_read(&l, 1, base, all);
  psi_read(&l, 2, x, all);
  psi_read(&l, 3, gate, 4.0 * rows);
  AddGatedParams p = {(u32)rows, (u32)width};
  psi_params(&l, 4, &p, sizeof p);
  return psi_launch(&l, PSI_DIVIDE_UP(width, 128), rows, 1, 128, 1, 1);
}
