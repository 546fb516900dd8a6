/* y[r] = x[index[r]]: x f32 [source_rows, width], index i32 [rows], y f32 [rows, width]. One task per row. */
#include "../common/pool.h"
#include "../common/simd.h"

PSI_KERNEL(gather_rows, float* y, const float* x, const i32* index, i64 rows, i64 width)

namespace psi::PSI_ISA {

void gather_rows(float* y, const float* x, const i32* index, i64 rows, i64 width) {
  parallel(rows, [&](i64 r, int) { memcpy(y + r * width, x + index[r] * width, (size_t)width * 4); });
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
static i32 check_gather(const void* y, const void* x, const i32* index, i32 rows, i32 width, i32 source_rows) {
  if (!y || !x || !index) return psi::fail(PSI_INVALID, "[psi_gather_rows] expected non-null pointers.");
  if (rows < 0 || width < 1) return psi::fail(PSI_INVALID, "[psi_gather_rows] expected rows >= 0 and width >= 1, got %d, %d.", rows, width);
  for (i32 r = 0; r < rows; r++)
    if (index[r] < 0 || index[r] >= source_rows)
      return psi::fail(PSI_INVALID, "[psi_gather_rows] expected indexes from 0 to %d, got %d at %d.", source_rows - 1, index[r], r);
  return PSI_OK;
}

PSI_API i32 psi_gather_rows(void* y, const void* x, const void* index, i32 rows, i32 width, i32 source_rows) {
  PSI_OPENED("psi_gather_rows");
  i32 status = check_gather(y, x, (const i32*)index, rows, width, source_rows);
  if (status != PSI_OK) return status;
  PSI_RUN(gather_rows)((float*)y, (const float*)x, (const i32*)index, rows, width);
  return PSI_OK;
}

PSI_API i32 psi_gather_rows_ref(void* y, const void* x, const void* index, i32 rows, i32 width, i32 source_rows) {
  i32 status = check_gather(y, x, (const i32*)index, rows, width, source_rows);
  if (status != PSI_OK) return status;
  for (i64 i = 0; i < (i64)rows * width; i++) ((float*)y)[i] = ((const float*)x)[((const i32*)index)[i / width] * (i64)width + i % width];
  return PSI_OK;
}
#endif
