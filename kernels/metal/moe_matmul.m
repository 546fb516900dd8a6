/* psi_moe_matmul, psi_moe_glu: see moe_matmul.metal. Only many slots take scratch, for their order. */
#include "moe_matmul.h"

#include <stdio.h>

#include "launch.h"

/* From so many slots of an expert on, weights are read once for several. */
enum { GROUPED_FROM = 2 };

typedef struct {
  void *order, *starts, *tiles;
  f64 order_bytes, starts_bytes;
} Order;

/* What both ops are given. */
typedef struct {
  const char* where;
  void* y;
  const void *x, *w, *bias, *expert_ids;
  void* scratch;
  f64 scratch_bytes;
  i32 tokens, dtype;
  bool glu;
} Call;

static i32 launch_order(const Order* o, const void* expert_ids, const MoeMatmulParams* p) {
  PsiLaunch l = psi_kernel("moe_matmul", "moe_order");
  psi_constant_bool(&l, 0, false);
  psi_constant_bool(&l, 1, false);
  psi_write(&l, 0, o->order, o->order_bytes);
  psi_write(&l, 1, o->starts, o->starts_bytes);
  psi_write(&l, 2, o->tiles, o->starts_bytes);
  psi_read(&l, 3, expert_ids, o->order_bytes);
  psi_params(&l, 4, p, sizeof *p);
  return psi_launch(&l, 1, 1, 1, MOE_ORDER_THREADS, 1, 1);
}

static i32 launch_grouped(const Call* c, PsiLaunch l, const MoeMatmulParams* p) {
  const i64 slots = p->slots, experts = p->experts;
  Order o = {.order = c->scratch, .order_bytes = 4.0 * (f64)slots, .starts_bytes = 4.0 * (f64)(experts + 2)};
  PSI_TRY(psi_check_scratch(c->where, c->scratch, c->scratch_bytes, o.order_bytes + 2 * o.starts_bytes));
  o.starts = (char*)c->scratch + 4 * slots;
  o.tiles = (char*)o.starts + 4 * (experts + 2);
  PSI_TRY(launch_order(&o, c->expert_ids, p));
  psi_params(&l, 4, p, sizeof *p);
  psi_read(&l, 5, o.order, o.order_bytes);
  psi_read(&l, 6, o.starts, o.starts_bytes);
  psi_read(&l, 7, o.tiles, o.starts_bytes);
  l.work = MATMUL_ROWS * MATMUL_OUTPUTS / (f64)MATMUL_THREADS * p->columns * (c->glu ? 2 : 1);
  psi_threadgroup(&l, 0, c->glu ? 4 * MATMUL_ROWS * MATMUL_OUTPUTS : 16);
  /* no more tiles than these: those past the last end at once */
  const i64 begun = slots < experts + 1 ? slots : experts + 1, tiles = slots / MATMUL_ROWS + begun;
  return psi_launch(&l, PSI_DIVIDE_UP(p->outputs, MATMUL_OUTPUTS), tiles, 1, MATMUL_THREADS, 1, 1);
}

static i32 launch(const Call* c, MoeMatmulParams p) {
  const PsiType* type;
  const i32 tokens = c->tokens, halves = c->glu ? 2 : 1;
  if (tokens < 0 || p.used < 1 || p.experts < 1 || p.outputs < 1 || p.columns < 1 || (p.x_per_slot != 0 && p.x_per_slot != 1))
    return psi_fail(PSI_INVALID, "[%s] expected tokens >= 0, used, experts, outputs, columns >= 1 and x_per_slot 0 or 1, got %d, %d, %d, %d, %d, %d.", c->where, tokens,
                    p.used, p.experts, p.outputs, p.columns, p.x_per_slot);
  PSI_TRY(psi_check_weight(c->where, c->dtype, p.columns, &type));
  if ((i64)tokens * p.used > 2147483647) return psi_fail(PSI_INVALID, "[%s] expected tokens * used below 2^31, got %d * %d.", c->where, tokens, p.used);
  if (tokens == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS(c->where, c->y, c->x, c->w, c->expert_ids));
  const i64 slots = (i64)tokens * p.used, rows = (i64)p.outputs * halves;
  p.slots = (i32)slots;
  const bool wide = halves * PSI_DIVIDE_UP(p.columns, MATMUL_SPLIT) > MATVEC_MOST_SPLITS, grouped = wide || slots >= GROUPED_FROM * (i64)p.experts;
  char name[40];
  snprintf(name, sizeof name, "%s_%s", grouped ? "moe_grouped" : "moe_matvec", type->name);
  PsiLaunch l = psi_kernel("moe_matmul", name);
  psi_constant_bool(&l, 0, c->bias != NULL);
  psi_constant_bool(&l, 1, c->glu);
  psi_write(&l, 0, c->y, 4.0 * (f64)slots * p.outputs);
  psi_read(&l, 1, c->x, 4.0 * (f64)(p.x_per_slot ? slots : tokens) * p.columns);
  psi_read(&l, 2, c->w, (f64)p.experts * (f64)rows * (p.columns / type->block) * type->block_bytes);
  psi_read(&l, 3, c->bias, c->bias ? 4.0 * p.experts * (f64)rows : 0);
  if (grouped) return launch_grouped(c, l, &p);
  psi_read(&l, 4, c->expert_ids, 4.0 * (f64)slots);
  psi_params(&l, 5, &p, sizeof p);
  l.work = MATVEC_ROWS * MATVEC_OUTPUTS / (MATVEC_SIMDS * 32.0) * p.columns * halves;
  return psi_launch(&l, PSI_DIVIDE_UP(p.outputs, MATVEC_OUTPUTS), slots, 1, MATVEC_SIMDS * 32, 1, 1);
}

PSI_API i32 psi_moe_matmul(void* y, const void* x, const void* w, const void* bias, const void* expert_ids, void* scratch, i32 tokens, i32 used, i32 experts,
                           i32 outputs, i32 columns, i32 dtype, i32 x_per_slot, f64 scratch_bytes) {
  const Call c = {"psi_moe_matmul", y, x, w, bias, expert_ids, scratch, scratch_bytes, tokens, dtype, false};
  return launch(&c, (MoeMatmulParams){used, experts, outputs, columns, x_per_slot, 0, 0, 0.0f, 0.0f});
}

PSI_API i32 psi_moe_glu(void* y, const void* x, const void* w, const void* bias, const void* expert_ids, void* scratch, i32 tokens, i32 used, i32 experts,
                        i32 outputs, i32 columns, i32 dtype, i32 kind, f32 alpha, f32 limit, f64 scratch_bytes) {
  if (kind < 0 || kind > 2) return psi_fail(PSI_INVALID, "[psi_moe_glu] expected kind 0, 1 or 2, got %d.", kind);
  const Call c = {"psi_moe_glu", y, x, w, bias, expert_ids, scratch, scratch_bytes, tokens, dtype, true};
  return launch(&c, (MoeMatmulParams){used, experts, outputs, columns, 0, 0, kind, alpha, limit});
}
