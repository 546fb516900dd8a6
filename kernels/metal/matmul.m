/* psi_matmul: see matmul.metal. The file's layout is the packed one: packing is a copy. */
#include "matmul.h"

#include <stdio.h>

#include "launch.h"

PSI_API i32 psi_matmul(void* y, const void* x, const void* w, const void* bias, void* scratch, i32 rows, i32 outputs, i32 columns, i32 dtype,
                       f64 scratch_bytes) {
  (void)scratch;
  (void)scratch_bytes;
  const PsiType* type;
  PSI_TRY(PSI_CHECK_SIZES("psi_matmul", rows, outputs, columns));
  PSI_TRY(psi_check_weight("psi_matmul", dtype, columns, &type));
  if (rows == 0 || outputs == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_matmul", y, x, w));
  const bool few = rows <= MATVEC_ROWS && columns <= MATVEC_MOST_SPLITS * MATMUL_SPLIT;
  char name[32];
  snprintf(name, sizeof name, "%s_%s", few ? "matvec" : "matmul", type->name);
  PsiLaunch l = psi_kernel("matmul", name);
  psi_constant_bool(&l, 0, bias != NULL);
  psi_write(&l, 0, y, 4.0 * rows * outputs);
  psi_read(&l, 1, x, 4.0 * rows * columns);
  psi_read(&l, 2, w, (f64)outputs * (columns / type->block) * type->block_bytes);
  psi_read(&l, 3, bias, bias ? 4.0 * outputs : 0);
  MatmulParams p = {(u32)rows, (u32)outputs, (u32)columns};
  psi_params(&l, 4, &p, sizeof p);
  l.work = few ? MATVEC_ROWS * MATVEC_OUTPUTS / (MATVEC_SIMDS * 32.0) * columns : MATMUL_ROWS * MATMUL_OUTPUTS / (f64)MATMUL_THREADS * columns;
  if (few) {
    psi_threadgroup(&l, 0, 4 * MATVEC_ROWS * MATVEC_OUTPUTS * PSI_DIVIDE_UP(columns, MATMUL_SPLIT));
    return psi_launch(&l, PSI_DIVIDE_UP(outputs, MATVEC_OUTPUTS), 1, 1, MATVEC_SIMDS * 32, 1, 1);
  }
  return psi_launch(&l, PSI_DIVIDE_UP(outputs, MATMUL_OUTPUTS), PSI_DIVIDE_UP(rows, MATMUL_ROWS), 1, MATMUL_THREADS, 1, 1);
}
