/* psi_softcap: see softcap.metal. */
#include "softcap.h"

#include "launch.h"

PSI_API i32 psi_softcap(void* y, const void* x, f64 count, f32 cap) {
  PSI_TRY(psi_check_count("psi_softcap", count));
  if (!(cap > 0)) return psi_fail(PSI_INVALID, "[psi_softcap] expected a cap above 0, got %g.", (double)cap);
  if (count == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_softcap", y, x));
  PsiLaunch l = psi_kernel("softcap", "softcap_f32");
  psi_write(&l, 0, y, 4 * count);
  psi_read(&l, 1, x, 4 * count);
  SoftcapParams p = {(u32)count, cap};
  psi_params(&l, 2, &p, sizeof p);
  return psi_launch(&l, PSI_DIVIDE_UP(count, 256), 1, 1, 256, 1, 1);
}
