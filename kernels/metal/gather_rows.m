/* psi_gather_rows: see gather_rows.metal. */
#include "gather_rows.h"

#include "launch.h"

PSI_API i32 psi_gather_rows(void* y, const void* x, const void* index, i32 rows, i32 width, i32 source_rows) {
  if (rows < 0 || width < 1 || source_rows < 1)
    return psi_fail(PSI_INVALID, "[psi_gather_rows] expected rows >= 0, a width and source rows, got %d, %d, %d.", rows, width, source_rows);
  if (rows == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_gather_rows", y, x, index));
  PsiLaunch l = psi_kernel("gather_rows", "gather_rows_f32");
  psi_write(&l, 0, y, 4.0 * rows * width);
  psi_read(&l, 1, x, 4.0 * source_rows * width);
  psi_read(&l, 2, index, 4.0 * rows);
  GatherRowsParams p = {(u32)width, source_rows};
  psi_params(&l, 3, &p, sizeof p);
  return psi_launch(&l, PSI_DIVIDE_UP(width, 128), rows, 1, 128, 1, 1);
}
