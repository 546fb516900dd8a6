/* psi_route, psi_expert_order, psi_balance_loss and gradients: see route.metal. */
#include "route.h"

#include "train.h"

static i32 check(const char* where, i32 tokens, i32 experts, i32 used, i32 mode, i32 dtype) {
  PSI_TRY(PSI_CHECK_ROWS(where, tokens, experts, used));
  PSI_TRY(psi_check_f32(where, dtype));
  if (experts > ROUTE_EXPERTS || used > experts || (mode != 1 && mode != 3))
    return psi_fail(PSI_INVALID, "[%s] expected at most %d experts, no more used than there are, and mode 1 or 3, got experts %d, used %d, mode %d.", where, ROUTE_EXPERTS, experts, used, mode);
  return psi_check_count(where, (f64)tokens * used);
}

PSI_API i32 psi_route(void* ids, void* weights, const void* logits, i32 tokens, i32 experts, i32 used, i32 mode, i32 dtype) {
  PSI_TRY(check("psi_route", tokens, experts, used, mode, dtype));
  if (tokens == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_route", ids, weights, logits));
  PsiLaunch l = psi_kernel("route", "route_f32");
  psi_write(&l, 0, ids, 4.0 * tokens * used);
  psi_write(&l, 1, weights, 4.0 * tokens * used);
  psi_read(&l, 2, logits, 4.0 * tokens * experts);
  RouteParams p = {(u32)tokens, (u32)experts, (u32)used, (u32)mode};
  psi_params(&l, 3, &p, sizeof p);
  return psi_launch(&l, tokens, 1, 1, 32, 1, 1);
}

PSI_API i32 psi_route_grad(void* dlogits, const void* dweights, const void* weights, const void* ids, const void* logits, i32 tokens, i32 experts, i32 used,
                           i32 mode, i32 dtype) {
  PSI_TRY(check("psi_route_grad", tokens, experts, used, mode, dtype));
  if (tokens == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_route_grad", dlogits, dweights, weights, ids, logits));
  PsiLaunch l = psi_kernel("route", "route_grad_f32");
  psi_write(&l, 0, dlogits, 4.0 * tokens * experts);
  psi_read(&l, 1, dweights, 4.0 * tokens * used);
  psi_read(&l, 2, weights, 4.0 * tokens * used);
  psi_read(&l, 3, ids, 4.0 * tokens * used);
  psi_read(&l, 4, logits, 4.0 * tokens * experts);
  RouteParams p = {(u32)tokens, (u32)experts, (u32)used, (u32)mode};
  psi_params(&l, 5, &p, sizeof p);
  return psi_launch(&l, tokens, 1, 1, 32, 1, 1);
}

PSI_API i32 psi_expert_order(void* slots, void* places, void* starts, const void* ids, i32 tokens, i32 used, i32 experts) {
  PSI_TRY(check("psi_expert_order", tokens, experts, used, 1, PSI_F32));
  PSI_TRY(PSI_CHECK_POINTERS("psi_expert_order", slots, places, starts, ids));
  f64 count = (f64)tokens * used;
  if (count == 0) {
    slots = NULL;
    places = NULL;
    ids = NULL;
  }
  RouteParams p = {(u32)tokens, (u32)experts, (u32)used, 1};
  PsiLaunch counts = psi_kernel("route", "expert_count");
  psi_write(&counts, 0, starts, 4.0 * (experts + 1.0));
  psi_read(&counts, 1, ids, 4 * count);
  psi_params(&counts, 2, &p, sizeof p);
  PSI_TRY(psi_launch(&counts, experts, 1, 1, 32, 1, 1));
  PsiLaunch sums = psi_kernel("route", "expert_starts");
  psi_write(&sums, 0, starts, 4.0 * (experts + 1.0));
  psi_params(&sums, 1, &p, sizeof p);
  PSI_TRY(psi_launch(&sums, 1, 1, 1, 32, 1, 1));
  PsiLaunch l = psi_kernel("route", "expert_place");
  psi_write(&l, 0, slots, 4 * count);
  psi_write(&l, 1, places, 4 * count);
  psi_read(&l, 2, starts, 4.0 * (experts + 1.0));
  psi_read(&l, 3, ids, 4 * count);
  psi_params(&l, 4, &p, sizeof p);
  return psi_launch(&l, experts, 1, 1, 32, 1, 1);
}

PSI_API i32 psi_balance_loss(void* loss, const void* logits, const void* ids, i32 tokens, i32 experts, i32 used, i32 dtype) {
  PSI_TRY(check("psi_balance_loss", tokens, experts, used, 1, dtype));
  PSI_TRY(PSI_CHECK_POINTERS("psi_balance_loss", loss, logits, ids));
  PsiLaunch l = psi_kernel("route", "balance_loss_f32");
  psi_write(&l, 0, loss, 4);
  psi_read(&l, 1, tokens ? logits : NULL, 4.0 * tokens * experts);
  psi_read(&l, 2, tokens ? ids : NULL, 4.0 * tokens * used);
  RouteParams p = {(u32)tokens, (u32)experts, (u32)used, 1};
  psi_params(&l, 3, &p, sizeof p);
  return psi_launch(&l, 1, 1, 1, 256, 1, 1);
}

PSI_API i32 psi_balance_loss_grad(void* dlogits, const void* dloss, const void* logits, const void* ids, i32 tokens, i32 experts, i32 used, i32 dtype) {
  PSI_TRY(check("psi_balance_loss_grad", tokens, experts, used, 1, dtype));
  if (tokens == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_balance_loss_grad", dlogits, dloss, logits, ids));
  PsiLaunch l = psi_kernel("route", "balance_loss_grad_f32");
  psi_write(&l, 0, dlogits, 4.0 * tokens * experts);
  psi_read(&l, 1, dloss, 4);
  psi_read(&l, 2, logits, 4.0 * tokens * experts);
  psi_read(&l, 3, ids, 4.0 * tokens * used);
  RouteParams p = {(u32)tokens, (u32)experts, (u32)used, 1};
  psi_params(&l, 4, &p, sizeof p);
  return psi_launch(&l, PSI_DIVIDE_UP(tokens, BALANCE_TOKENS), 1, 1, 256, 1, 1);
}
