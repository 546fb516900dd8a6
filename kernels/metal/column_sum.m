/* psi_column_sum: see column_sum.metal. */
#include "column_sum.h"

#include "train.h"

PSI_API i32 psi_column_sum(void* y, const void* x, const void* starts, i32 rows, i32 width, i32 groups, i32 dtype) {
  PSI_TRY(PSI_CHECK_ROWS("psi_column_sum", rows, width, groups));
  PSI_TRY(psi_check_numbers("psi_column_sum", dtype, 0x2));
  PSI_TRY(PSI_CHECK_POINTERS("psi_column_sum", y, x));
  if (!starts && groups != 1) return psi_fail(PSI_INVALID, "[psi_column_sum] expected starts for %d groups, got null.", groups);
  if (rows == 0) return PSI_OK;
  PsiLaunch l = psi_number_kernel("column_sum", "column_sum_f32");
  psi_write(&l, 0, y, 4.0 * groups * width);
  psi_read_numbers(&l, 1, psi_numbers(x, dtype, 1), (f64)rows * width);
  psi_read(&l, 2, starts, starts ? 4.0 * (groups + 1.0) : 0);
  ColumnSumParams p = {(u32)rows, (u32)width, starts != NULL};
  psi_params(&l, 3, &p, sizeof p);
  return psi_launch(&l, PSI_DIVIDE_UP(width, 32), groups, 1, 32, 1, 1);
}
