/*
 * y[t] = sum over j of weights[t,j] * x[t*used+j], in the order of j: x f32 [tokens*used, width], weights f32
 * [tokens, used], y f32 [tokens, width]. One task per token.
 */
#include "../common/pool.h"
#include "../common/simd.h"

PSI_KERNEL(moe_combine, float* y, const float* x, const float* weights, i64 tokens, i64 used, i64 width)

namespace psi::PSI_ISA {

void moe_combine(float* y, const float* x, const float* weights, i64 tokens, i64 used, i64 width) {
  parallel(tokens, [&](i64 t, int) {
    for (i64 k = 0; k < width; k += 16) {
      int m = (int)(width - k < 16 ? width - k : 16);
      vf sum = zero();
      for (i64 j = 0; j < used; j++) sum = fma(set1(weights[t * used + j]), load_n(x + (t * used + j) * width + k, m), sum);
      store_n(y + t * width + k, sum, m);
    }
  });
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
PSI_API i32 psi_moe_combine(void* y, const void* x, const void* weights, i32 tokens, i32 used, i32 width) {
  PSI_OPENED("psi_moe_combine");
  if (!y || !x || !weights || tokens < 0 || used < 1 || width < 1)
    return psi::fail(PSI_INVALID, "[psi_moe_combine] expected non-null pointers and positive sizes, got %d, %d, %d.", tokens, used, width);
  PSI_RUN(moe_combine)((float*)y, (const float*)x, (const float*)weights, tokens, used, width);
  return PSI_OK;
}

PSI_API i32 psi_moe_combine_ref(void* y, const void* x, const void* weights, i32 tokens, i32 used, i32 width) {
  for (i64 t = 0; t < tokens; t++)
    for (i64 k = 0; k < width; k++) {
      double sum = 0;
      for (i64 j = 0; j < used; j++) sum += (double)((const float*)weights)[t * used + j] * ((const float*)x)[(t * used + j) * width + k];
      ((float*)y)[t * width + k] = (float)sum;
    }
  return PSI_OK;
}
#endif
