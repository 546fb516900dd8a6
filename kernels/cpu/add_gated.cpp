/* y[t] = base[t] + sigmoid(gate[t]) * x[t]: base, x, y f32 [rows, width], gate f32 [rows]; y may be base or x. Tasks: rows. */
#include <math.h>

#include "../common/pool.h"
#include "../common/simd.h"

PSI_KERNEL(add_gated, float* y, const float* base, const float* x, const float* gate, i64 rows, i64 width)

namespace psi::PSI_ISA {

void add_gated(float* y, const float* base, const float* x, const float* gate, i64 rows, i64 width) {
  parallel(rows, [&](i64 r, int) {
    const vf factor = set1(1.0f) / (set1(1.0f) + exp(zero() - set1(gate[r])));
    for (i64 k = 0; k < width; k += 16) {
      const int m = (int)(width - k < 16 ? width - k : 16);
      const i64 at = r * width + k;
      store_n(y + at, fma(factor, load_n(x + at, m), load_n(base + at, m)), m);
    }
  });
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
static i32 check_add_gated(const char* where, const void* y, const void* base, const void* x, const void* gate, i32 rows, i32 width) {
  if (!y || !base || !x || !gate) return psi::fail(PSI_INVALID, "[%s] expected non-null pointers.", where);
  if (rows < 0 || width < 1) return psi::fail(PSI_INVALID, "[%s] expected rows and a width, got %d and %d.", where, rows, width);
  return PSI_OK;
}

PSI_API i32 psi_add_gated(void* y, const void* base, const void* x, const void* gate, i32 rows, i32 width) {
  PSI_OPENED("psi_add_gated");
  i32 status = check_add_gated("psi_add_gated", y, base, x, gate, rows, width);
  if (status != PSI_OK) return status;
  PSI_RUN(add_gated)((float*)y, (const float*)base, (const float*)x, (const float*)gate, rows, width);
  return PSI_OK;
}

PSI_API i32 psi_add_gated_ref(void* y, const void* base, const void* x, const void* gate, i32 rows, i32 width) {
  i32 status = check_add_gated("psi_add_gated_ref", y, base, x, gate, rows, width);
  if (status != PSI_OK) return status;
  for (i64 r = 0; r < rows; r++)
    for (i64 k = 0; k < width; k++) {
      const i64 at = r * width + k;
      ((float*)y)[at] = (float)(((const float*)base)[at] + ((const float*)x)[at] / (1 + exp(-(double)((const float*)gate)[r])));
    }
  return PSI_OK;
}
#endif
