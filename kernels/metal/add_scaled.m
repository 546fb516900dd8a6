/* psi_add_scaled: see add_scaled.metal. */
#include "add_scaled.h"

#include "launch.h"

PSI_API i32 psi_add_scaled(void* y, const void* a, const void* b, f64 count, f32 scale) {
  PSI_TRY(psi_check_count("psi_add_scaled", count));
  if (count == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_add_scaled", y, a, b));
  PsiLaunch l = psi_kernel("add_scaled", "add_scaled_f32");
  psi_write(&l, 0, y, 4 * count);
  psi_read(&l, 1, a, 4 * count);
  psi_read(&l, 2, b, 4 * count);
  AddScaledParams p = {(u32)count, scale};
  psi_params(&l, 3, &p, sizeof p);
  return psi_launch(&l, PSI_DIVIDE_UP(count, 256), 1, 1, 256, 1, 1);
}
