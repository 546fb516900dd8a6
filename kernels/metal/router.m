/* psi_router: see router.metal. */
#include "router.h"

#include "launch.h"

PSI_API i32 psi_router(void* expert_ids, void* weights, const void* logits, const void* bias, const void* expert_scale, i32 tokens, i32 experts, i32 used, i32 mode, i32 normalize, f32 scale) {
  if (tokens < 0 || experts < 1 || experts > ROUTER_MOST_EXPERTS || used < 1 || used > experts)
    return psi_fail(PSI_INVALID, "[psi_router] expected 1 to %d experts and used within them, got %d and %d.", ROUTER_MOST_EXPERTS, experts, used);
  if (mode < 1 || mode > 3) return psi_fail(PSI_INVALID, "[psi_router] expected mode 1, 2 or 3, got %d.", mode);
  if (tokens == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_router", expert_ids, weights, logits));
  PsiLaunch l = psi_kernel("router", "router_f32");
  psi_constant_bool(&l, 0, bias != NULL);
  psi_constant_bool(&l, 1, expert_scale != NULL);
  psi_write(&l, 0, expert_ids, 4.0 * tokens * used);
  psi_write(&l, 1, weights, 4.0 * tokens * used);
  psi_read(&l, 2, logits, 4.0 * tokens * experts);
  psi_read(&l, 3, bias, bias ? 4.0 * experts : 0);
  psi_read(&l, 4, expert_scale, expert_scale ? 4.0 * experts : 0);
  RouterParams p = {experts, used, mode, normalize, scale};
  psi_params(&l, 5, &p, sizeof p);
  return psi_launch(&l, tokens, 1, 1, ROUTER_THREADS, 1, 1);
}
