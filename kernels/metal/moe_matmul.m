/* psi_moe_matmul: see moe_matmul.metal. Only many slots take scratch, for their order. */
#include "moe_matmul.h"

#include <stdio.h>

#include "launch.h"

/* From so many slots of an expert on, weights are read once for several. */
enum { GROUPED_FROM = 2 };

typedef struct {
  void *order, *starts, *tiles;
  f64 order_bytes, starts_bytes;
} Order;

static i32 launch_order(const Order* o, const void* expert_ids, const MoeMatmulParams* p) {
  PsiLaunch l = psi_kernel("moe_matmul", "moe_order");
  psi_constant_bool(&l, 0, false);
  psi_write(&l, 0, o->order, o->order_bytes);
  psi_write(&l, 1, o->starts, o->starts_bytes);
  psi_write(&l, 2, o->tiles, o->starts_bytes);
  psi_read(&l, 3, expert_ids, o->order_bytes);
  psi_params(&l, 4, p, sizeof *p);
  return psi_launch(&l, 1, 1, 1, MOE_ORDER_THREADS, 1, 1);
}

PSI_API i32 psi_moe_matmul(void* y, const void* x, const void* w, const void* bias, const void* expert_ids, void* scratch, i32 tokens, i32 used, i32 experts,
                           i32 outputs, i32 columns, i32 dtype, i32 x_per_slot, f64 scratch_bytes) {
  const PsiType* type;
  if (tokens < 0 || used < 1 || experts < 1 || outputs < 1 || columns < 1 || (x_per_slot != 0 && x_per_slot != 1))
    return psi_fail(PSI_INVALID, "[psi_moe_matmul] expected tokens >= 0, used, experts, outputs, columns >= 1 and x_per_slot 0 or 1, got %d, %d, %d, %d, %d, %d.", tokens,
                    used, experts, outputs, columns, x_per_slot);
  PSI_TRY(psi_check_weight("psi_moe_matmul", dtype, columns, &type));
  if ((i64)tokens * used > 2147483647) return psi_fail(PSI_INVALID, "[psi_moe_matmul] expected tokens * used below 2^31, got %d * %d.", tokens, used);
  if (tokens == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_moe_matmul", y, x, w, expert_ids));
  const i64 slots = (i64)tokens * used;
  const MoeMatmulParams p = {used, experts, outputs, columns, x_per_slot, (i32)slots};
  const bool grouped = slots >= GROUPED_FROM * (i64)experts;
  char name[40];
  snprintf(name, sizeof name, "%s_%s", grouped ? "moe_grouped" : "moe_matmul", type->name);
  PsiLaunch l = psi_kernel("moe_matmul", name);
  psi_constant_bool(&l, 0, bias != NULL);
  psi_write(&l, 0, y, 4.0 * (f64)slots * outputs);
  psi_read(&l, 1, x, 4.0 * (f64)(x_per_slot ? slots : tokens) * columns);
  psi_read(&l, 2, w, (f64)experts * outputs * (columns / type->block) * type->block_bytes);
  psi_read(&l, 3, bias, bias ? 4.0 * experts * outputs : 0);
  if (!grouped) {
    psi_read(&l, 4, expert_ids, 4.0 * (f64)slots);
    psi_params(&l, 5, &p, sizeof p);
    return psi_launch(&l, PSI_DIVIDE_UP(outputs, MOE_THREADS / 32), slots, 1, MOE_THREADS, 1, 1);
  }
  Order o = {.order = scratch, .order_bytes = 4.0 * (f64)slots, .starts_bytes = 4.0 * (experts + 2)};
  PSI_TRY(psi_check_scratch("psi_moe_matmul", scratch, scratch_bytes, o.order_bytes + 2 * o.starts_bytes));
  o.starts = (char*)scratch + 4 * slots;
  o.tiles = (char*)o.starts + 4 * ((i64)experts + 2);
  PSI_TRY(launch_order(&o, expert_ids, &p));
  psi_params(&l, 4, &p, sizeof p);
  psi_read(&l, 5, o.order, o.order_bytes);
  psi_read(&l, 6, o.starts, o.starts_bytes);
  psi_read(&l, 7, o.tiles, o.starts_bytes);
  /* no more tiles than these: those past the last end at once */
  const i64 begun = slots < (i64)experts + 1 ? slots : (i64)experts + 1, tiles = slots / MOE_ROWS + begun;
  return psi_launch(&l, PSI_DIVIDE_UP(outputs, MOE_THREADS / 32 * MOE_OUTPUTS), tiles, 1, MOE_THREADS, 1, 1);
}
