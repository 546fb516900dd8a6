/* psi_argmax: see argmax.metal. */
#include "argmax.h"

#include "launch.h"

PSI_API i32 psi_argmax(void* ids, const void* x, i32 rows, i32 width) {
  if (rows < 0 || width < 1) return psi_fail(PSI_INVALID, "[psi_argmax] expected rows and a width, got %d x %d.", rows, width);
  if (rows == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_argmax", ids, x));
  PsiLaunch l = psi_kernel("argmax", "argmax_f32");
  psi_write(&l, 0, ids, 4.0 * rows);
  psi_read(&l, 1, x, 4.0 * rows * width);
  ArgmaxParams p = {width};
  psi_params(&l, 2, &p, sizeof p);
  return psi_launch(&l, rows, 1, 1, ARGMAX_THREADS, 1, 1);
}
