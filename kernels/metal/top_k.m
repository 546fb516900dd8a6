/* psi_top_k: see top_k.metal. */
#include "top_k.h"

#include "launch.h"

PSI_API i32 psi_top_k(void* values, void* ids, const void* x, i32 rows, i32 width, i32 k) {
  if (rows < 0 || k < 1 || k > width) return psi_fail(PSI_INVALID, "[psi_top_k] expected k from 1 to the width %d, got %d.", width, k);
  if (rows == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_top_k", values, ids, x));
  PsiLaunch l = psi_kernel("top_k", "top_k_f32");
  psi_write(&l, 0, values, 4.0 * rows * k);
  psi_write(&l, 1, ids, 4.0 * rows * k);
  psi_read(&l, 2, x, 4.0 * rows * width);
  TopKParams p = {width, k};
  psi_params(&l, 3, &p, sizeof p);
  return psi_launch(&l, rows, 1, 1, TOP_K_THREADS, 1, 1);
}
