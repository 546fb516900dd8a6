/* y[g,n] += sum over the rows of group g of x[t,n], t ascending. A task is 16 columns of one group. */
#include "../common/pool.h"
#include "../common/simd.h"
#include "train.h"

PSI_KERNEL(column_sum, float* y, const float* x, const i32* starts, i64 rows, i64 width, i64 groups)

namespace psi::PSI_ISA {

void column_sum(float* y, const float* x, const i32* starts, i64 rows, i64 width, i64 groups) {
  const i64 blocks = (width + 15) / 16;
  parallel(groups * blocks, [&](i64 task, int) {
    const i64 g = task / blocks, n = task % blocks * 16;
    const int lanes = (int)(width - n < 16 ? width - n : 16);
    const i64 from = starts ? starts[g] : 0, to = starts ? starts[g + 1] : rows;
    vf sum = zero();
    for (i64 t = from; t < to; t++) sum = sum + load_n(x + t * width + n, lanes);
    float* at = y + g * width + n;
    store_n(at, load_n(at, lanes) + sum, lanes);
  });
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
template <class T>
static void plain(T* y, const T* x, const i32* starts, i64 rows, i64 width, i64 groups) {
  for (i64 g = 0; g < groups; g++)
    for (i64 n = 0; n < width; n++) {
      double sum = 0;
      for (i64 t = starts ? starts[g] : 0; t < (starts ? starts[g + 1] : rows); t++) sum += x[t * width + n];
      y[g * width + n] += (T)sum;
    }
}

PSI_API i32 psi_column_sum_ref(void* y, const void* x, const void* starts, i32 rows, i32 width, i32 groups, i32 dtype) {
  PSI_WITH_REAL(dtype, T, plain((T*)y, (const T*)x, (const i32*)starts, rows, width, groups));
  return PSI_OK;
}

PSI_API i32 psi_column_sum(void* y, const void* x, const void* starts, i32 rows, i32 width, i32 groups, i32 dtype) {
  PSI_OPENED("psi_column_sum");
  if (!y || !x || rows < 0 || width < 1 || groups < 1 || !psi::is_real(dtype) || (!starts && groups != 1))
    return psi::fail(PSI_INVALID, "[psi_column_sum] expected pointers, f32 or f64 and positive sizes, got rows %d, width %d, groups %d, dtype %d.", rows, width, groups, dtype);
  if (starts) {
    const i32* at = (const i32*)starts;
    bool fits = at[0] >= 0 && at[groups] <= rows;
    for (i32 g = 0; g < groups; g++) fits = fits && at[g] <= at[g + 1];
    if (!fits) return psi::fail(PSI_INVALID, "[psi_column_sum] expected ascending starts inside %d rows.", rows);
  }
  if (dtype == psi::F64) return psi_column_sum_ref(y, x, starts, rows, width, groups, dtype);
  PSI_RUN(column_sum)((float*)y, (const float*)x, (const i32*)starts, rows, width, groups);
  return PSI_OK;
}
#endif
