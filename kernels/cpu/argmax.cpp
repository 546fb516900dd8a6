/*
 * ids[r] = position of the largest of x[r,:], the lowest on ties; NaN never wins (a row of NaN gives 0).
 * x f32 [rows, width], ids i32 [rows]. One task per row: vectors for the maximum, then the first place that holds it.
 */
#include <math.h>

#include "../common/pool.h"
#include "../common/simd.h"

PSI_KERNEL(argmax, i32* ids, const float* x, i64 rows, i64 width)

namespace psi::PSI_ISA {

void argmax(i32* ids, const float* x, i64 rows, i64 width) {
  parallel(rows, [&](i64 r, int) {
    const float* row = x + r * width;
    vf best = set1(-INFINITY);
    i64 k = 0;
    for (; k + 16 <= width; k += 16) best = max(load(row + k), best);
    float top = hmax(best);
    for (; k < width; k++)
      if (row[k] > top) top = row[k];
    i32 id = 0;
    for (i64 i = 0; i < width; i++)
      if (row[i] == top) {
        id = (i32)i;
        break;
      }
    ids[r] = id;
  });
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
PSI_API i32 psi_argmax(void* ids, const void* x, i32 rows, i32 width) {
  PSI_OPENED("psi_argmax");
  if (!ids || !x || rows < 0 || width < 1) return psi::fail(PSI_INVALID, "[psi_argmax] expected non-null pointers and a width, got %d x %d.", rows, width);
  PSI_RUN(argmax)((i32*)ids, (const float*)x, rows, width);
  return PSI_OK;
}

PSI_API i32 psi_argmax_ref(void* ids, const void* x, i32 rows, i32 width) {
  for (i64 r = 0; r < rows; r++) {
    const float* row = (const float*)x + r * width;
    i32 best = 0;
    float top = -INFINITY;
    for (i32 i = 0; i < width; i++)
      if (row[i] > top) {
        top = row[i];
        best = i;
      }
    ((i32*)ids)[r] = best;
  }
  return PSI_OK;
}
#endif
