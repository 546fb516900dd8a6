/* psi_argmax: see argmax.metal. */
#include "argmax.h"

#include "launch.h"

PSI_API i32 psi_argmax(void* ids, const void* x, i32 rows, i32 width) {
  return psi_launch_rows("argmax", ids, x, rows, width, ARGMAX_THREADS);
}
