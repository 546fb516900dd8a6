/* psi_dequantize: see dequantize.metal. */
#include "dequantize.h"

#include <stdio.h>

#include "launch.h"

PSI_API i32 psi_dequantize(void* y, const void* x, i32 rows, i32 columns, i32 dtype) {
  const PsiType* type;
  PSI_TRY(PSI_CHECK_SIZES("psi_dequantize", rows, columns));
  PSI_TRY(psi_check_weight("psi_dequantize", dtype, columns, &type));
  if (rows == 0 || columns == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_dequantize", y, x));
  char name[32];
  snprintf(name, sizeof name, "dequantize_%s", type->name);
  PsiLaunch l = psi_kernel("dequantize", name);
  psi_write(&l, 0, y, 4.0 * rows * columns);
  psi_read(&l, 1, x, (f64)rows * (columns / type->block) * type->block_bytes);
  DequantizeParams p = {(u32)rows, (u32)columns, (u32)PSI_DIVIDE_UP(columns, 16)};
  psi_params(&l, 2, &p, sizeof p);
  return psi_launch(&l, PSI_DIVIDE_UP(p.groups, 64), rows, 1, 64, 1, 1);
}
