/* psi_moe_matmul: see moe_matmul.metal. It needs no scratch. */
#include "moe_matmul.h"

#include <stdio.h>

#include "launch.h"

PSI_API i32 psi_moe_matmul(void* y, const void* x, const void* w, const void* bias, const void* expert_ids, void* scratch, i32 tokens, i32 used, i32 experts,
                           i32 outputs, i32 columns, i32 dtype, i32 x_per_slot, f64 scratch_bytes) {
  (void)scratch;
  (void)scratch_bytes;
  const PsiType* type;
  if (tokens < 0 || used < 1 || experts < 1 || outputs < 1 || columns < 1 || (x_per_slot != 0 && x_per_slot != 1))
    return psi_fail(PSI_INVALID, "[psi_moe_matmul] expected tokens >= 0, used, experts, outputs, columns >= 1 and x_per_slot 0 or 1, got %d, %d, %d, %d, %d, %d.", tokens,
                    used, experts, outputs, columns, x_per_slot);
  PSI_TRY(psi_check_weight("psi_moe_matmul", dtype, columns, &type));
  if ((i64)tokens * used > 2147483647) return psi_fail(PSI_INVALID, "[psi_moe_matmul] expected tokens * used below 2^31, got %d * %d.", tokens, used);
  if (tokens == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_moe_matmul", y, x, w, expert_ids));
  const i64 slots = (i64)tokens * used;
  char name[40];
  snprintf(name, sizeof name, "moe_matmul_%s", type->name);
  PsiLaunch l = psi_kernel("moe_matmul", name);
  psi_constant_bool(&l, 0, bias != NULL);
  psi_write(&l, 0, y, 4.0 * (f64)slots * outputs);
  psi_read(&l, 1, x, 4.0 * (f64)(x_per_slot ? slots : tokens) * columns);
  psi_read(&l, 2, w, (f64)experts * outputs * (columns / type->block) * type->block_bytes);
  psi_read(&l, 3, bias, bias ? 4.0 * experts * outputs : 0);
  psi_read(&l, 4, expert_ids, 4.0 * (f64)slots);
  MoeMatmulParams p = {used, experts, outputs, columns, x_per_slot};
  psi_params(&l, 5, &p, sizeof p);
  return psi_launch(&l, PSI_DIVIDE_UP(outputs, MOE_THREADS / 32), slots, 1, MOE_THREADS, 1, 1);
}
