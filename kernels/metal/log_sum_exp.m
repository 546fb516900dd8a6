/* psi_log_sum_exp: see log_sum_exp.metal. */
#include "log_sum_exp.h"

#include "launch.h"

PSI_API i32 psi_log_sum_exp(void* y, const void* x, i32 rows, i32 width) {
  if (rows < 0 || width < 1) return psi_fail(PSI_INVALID, "[psi_log_sum_exp] expected rows and a width, got %d x %d.", rows, width);
  if (rows == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_log_sum_exp", y, x));
  PsiLaunch l = psi_kernel("log_sum_exp", "log_sum_exp_f32");
  psi_write(&l, 0, y, 4.0 * rows);
  psi_read(&l, 1, x, 4.0 * rows * width);
  LogSumExpParams p = {width};
  psi_params(&l, 2, &p, sizeof p);
  return psi_launch(&l, rows, 1, 1, LOG_SUM_THREADS, 1, 1);
}
