/* psi_moe_combine, psi_moe_combine_add, psi_moe_combine_norm: see moe_combine.metal. */
#include "moe_combine.h"

#include "launch.h"

static i32 combine(const char* where, void* y, const void* base, const void* x, const void* weights, i32 tokens, i32 used, i32 width) {
  if (tokens < 0 || used < 1 || width < 1) return psi_fail(PSI_INVALID, "[%s] expected positive sizes, got %d, %d, %d.", where, tokens, used, width);
  PSI_TRY(PSI_CHECK_POINTERS(where, y, x, weights));
  PsiLaunch l = psi_kernel("moe_combine", "moe_combine_f32");
  psi_constant_bool(&l, 0, base != NULL);
  psi_write(&l, 0, y, 4.0 * tokens * width);
  psi_read(&l, 1, base, base ? 4.0 * tokens * width : 0);
  psi_read(&l, 2, x, 4.0 * tokens * used * width);
  psi_read(&l, 3, weights, 4.0 * tokens * used);
  MoeCombineParams p = {tokens, used, width, 0};
  psi_params(&l, 4, &p, sizeof p);
  return psi_launch(&l, PSI_DIVIDE_UP(width, 128), tokens, 1, 128, 1, 1);
}

PSI_API i32 psi_moe_combine(void* y, const void* x, const void* weights, i32 tokens, i32 used, i32 width) {
  return combine("psi_moe_combine", y, NULL, x, weights, tokens, used, width);
}

PSI_API i32 psi_moe_combine_add(void* y, const void* base, const void* x, const void* weights, i32 tokens, i32 used, i32 width) {
  PSI_TRY(PSI_CHECK_POINTERS("psi_moe_combine_add", base));
  return combine("psi_moe_combine_add", y, base, x, weights, tokens, used, width);
}

PSI_API i32 psi_moe_combine_norm(void* sum, void* y, const void* base, const void* x, const void* weights, const void* w, i32 tokens, i32 used, i32 width,
                                 f32 eps) {
  if (tokens < 0 || used < 1 || width < 1)
    return psi_fail(PSI_INVALID, "[psi_moe_combine_norm] expected positive sizes, got %d, %d, %d.", tokens, used, width);
  PSI_TRY(PSI_CHECK_POINTERS("psi_moe_combine_norm", sum, y, base, x, weights, w));
  PsiLaunch l = psi_kernel("moe_combine", "moe_combine_norm_f32");
  psi_constant_bool(&l, 0, true);
  psi_write(&l, 0, sum, 4.0 * tokens * width);
  psi_read(&l, 1, base, 4.0 * tokens * width);
  psi_read(&l, 2, x, 4.0 * tokens * used * width);
  psi_read(&l, 3, weights, 4.0 * tokens * used);
  MoeCombineParams p = {tokens, used, width, eps};
  psi_params(&l, 4, &p, sizeof p);
  psi_write(&l, 5, y, 4.0 * tokens * width);
  psi_read(&l, 6, w, 4.0 * width);
  return psi_launch(&l, tokens, 1, 1, 256, 1, 1);
}
