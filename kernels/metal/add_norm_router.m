/* psi_add_norm_router: see add_norm_router.metal. */
#include "add_norm_router.h"

#include "launch.h"

PSI_API i32 psi_add_norm_router(void* sum, void* y, void* expert_ids, void* weights, const void* x, const void* delta, const void* w, const void* router_w,
                                const void* router_bias, i32 rows, i32 width, i32 experts, i32 used, i32 mode, i32 normalize, f32 eps, f32 scale) {
  const char* where = "psi_add_norm_router";
  PSI_TRY(PSI_CHECK_POINTERS(where, sum, y, expert_ids, weights, x, delta, w, router_w));
  if (rows < 0 || width < 1 || width > ADD_NORM_WIDEST)
    return psi_fail(PSI_UNSUPPORTED, "[%s] expected rows of at most %d columns, got %d of %d.", where, ADD_NORM_WIDEST, rows, width);
  if (experts < 1 || experts > width || experts > ROUTER_MOST_EXPERTS || used < 1 || used > experts)
    return psi_fail(PSI_UNSUPPORTED, "[%s] expected 1 to %d experts, whose logits fit into a row, and used within them, got %d and %d.", where, width, experts, used);
  if (mode < 1 || mode > 3) return psi_fail(PSI_INVALID, "[%s] expected mode 1, 2 or 3, got %d.", where, mode);
  if (y == x || y == delta || y == sum) return psi_fail(PSI_INVALID, "[%s] expected y beside x, delta and sum, got one of them.", where);
  if (rows == 0) return PSI_OK;
  const f64 all = 4.0 * rows * width;
  const AddNormRouterParams p = {{experts, used, mode, normalize, scale}, rows, width, eps};
  PsiLaunch l = psi_kernel("add_norm_router", "add_norm_logits");
  psi_constant_bool(&l, 0, router_bias != NULL);
  psi_write(&l, 0, y, all);
  psi_read(&l, 1, x, all);
  psi_read(&l, 2, delta, all);
  psi_read(&l, 3, w, 4.0 * width);
  psi_read(&l, 4, router_w, 4.0 * experts * width);
  psi_read(&l, 5, router_bias, router_bias ? 4.0 * experts : 0);
  psi_params(&l, 6, &p, sizeof p);
  PSI_TRY(psi_launch(&l, PSI_DIVIDE_UP(experts, 8), PSI_DIVIDE_UP(rows, ADD_NORM_ROWS), 1, ADD_NORM_THREADS, 1, 1));
  l = psi_kernel("add_norm_router", "add_norm_choose");
  psi_constant_bool(&l, 0, router_bias != NULL);
  psi_write(&l, 0, sum, all);
  psi_write(&l, 1, y, all);
  psi_write(&l, 2, expert_ids, 4.0 * rows * used);
  psi_write(&l, 3, weights, 4.0 * rows * used);
  psi_read(&l, 4, x, all);
  psi_read(&l, 5, delta, all);
  psi_read(&l, 6, w, 4.0 * width);
  psi_params(&l, 7, &p, sizeof p);
  return psi_launch(&l, rows, 1, 1, ADD_NORM_THREADS, 1, 1);
}
