/* psi_moe_combine: see moe_combine.metal. */
#include "moe_combine.h"

#include "launch.h"

PSI_API i32 psi_moe_combine(void* y, const void* x, const void* weights, i32 tokens, i32 used, i32 width) {
  if (tokens < 0 || used < 1 || width < 1)
    return psi_fail(PSI_INVALID, "[psi_moe_combine] expected tokens >= 0, used >= 1 and a width, got %d, %d, %d.", tokens, used, width);
  if (tokens == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_moe_combine", y, x, weights));
  PsiLaunch l = psi_kernel("moe_combine", "moe_combine_f32");
  psi_write(&l, 0, y, 4.0 * tokens * width);
  psi_read(&l, 1, x, 4.0 * tokens * used * width);
  psi_read(&l, 2, weights, 4.0 * tokens * used);
  MoeCombineParams p = {used, width};
  psi_params(&l, 3, &p, sizeof p);
  return psi_launch(&l, PSI_DIVIDE_UP(width, 128), tokens, 1, 128, 1, 1);
}
