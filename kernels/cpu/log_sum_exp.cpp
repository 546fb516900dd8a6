/*
 * y[r] = log(sum(exp(x[r,:]))): x f32 [rows, width], y f32 [rows]. The maximum is taken out first; sums are f32 over
 * pieces of 1024 elements and f64 over pieces. One task per row.
 */
#include <math.h>

#include "../common/pool.h"
#include "../common/simd.h"

PSI_KERNEL(log_sum_exp, float* y, const float* x, i64 rows, i64 width)

namespace psi::PSI_ISA {

void log_sum_exp(float* y, const float* x, i64 rows, i64 width) {
  parallel(rows, [&](i64 r, int) {
    const float* row = x + r * width;
    vf best = set1(-INFINITY);
    i64 k = 0;
    for (; k + 16 <= width; k += 16) best = max(load(row + k), best);
    float top = hmax(best);
    for (; k < width; k++)
      if (row[k] > top) top = row[k];
    if (top == -INFINITY || top == INFINITY) {
      y[r] = top;
      return;
    }
    double total = 0;
    for (i64 begin = 0; begin < width; begin += 1024) {
      const i64 end = begin + 1024 < width ? begin + 1024 : width;
      vf sum = zero();
      for (k = begin; k + 16 <= end; k += 16) sum = sum + exp(load(row + k) - set1(top));
      total += hsum(sum);
      for (; k < end; k++) total += ::exp((double)(row[k] - top));
    }
    y[r] = (float)((double)top + ::log(total));
  });
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
PSI_API i32 psi_log_sum_exp(void* y, const void* x, i32 rows, i32 width) {
  PSI_OPENED("psi_log_sum_exp");
  if (!y || !x || rows < 0 || width < 1) return psi::fail(PSI_INVALID, "[psi_log_sum_exp] expected non-null pointers and a width, got %d x %d.", rows, width);
  PSI_RUN(log_sum_exp)((float*)y, (const float*)x, rows, width);
  return PSI_OK;
}

PSI_API i32 psi_log_sum_exp_ref(void* y, const void* x, i32 rows, i32 width) {
  for (i64 r = 0; r < rows; r++) {
    const float* row = (const float*)x + r * width;
    double top = -INFINITY, sum = 0;
    for (i64 i = 0; i < width; i++) top = row[i] > top ? row[i] : top;
    for (i64 i = 0; i < width; i++) sum += exp(row[i] - top);
    ((float*)y)[r] = (float)(top + log(sum));
  }
  return PSI_OK;
}
#endif
