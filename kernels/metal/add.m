/* psi_add: see add.metal. */
#include "add.h"

#include "launch.h"

PSI_API i32 psi_add(void* y, const void* a, const void* b, f64 count) {
  PSI_TRY(psi_check_count("psi_add", count));
  if (count == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_add", y, a, b));
  PsiLaunch l = psi_kernel("add", "add_f32");
  psi_write(&l, 0, y, 4 * count);
  psi_read(&l, 1, a, 4 * count);
  psi_read(&l, 2, b, 4 * count);
  AddParams p = {(u32)count};
  psi_params(&l, 3, &p, sizeof p);
  return psi_launch(&l, PSI_DIVIDE_UP(count, 256), 1, 1, 256, 1, 1);
}
