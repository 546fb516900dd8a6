/* psi_log_sum_exp: see log_sum_exp.metal. */
#include "log_sum_exp.h"

#include "launch.h"

PSI_API i32 psi_log_sum_exp(void* y, const void* x, i32 rows, i32 width) {
  return psi_launch_rows("log_sum_exp", y, x, rows, width, LOG_SUM_THREADS);
}
