/* y = (a + b) * scale, `count` f32 elements; y may be a or b. Tasks: pieces of 16384 elements. */
#include "../common/pool.h"
#include "../common/simd.h"

PSI_KERNEL(add_scaled, float* y, const float* a, const float* b, i64 count, float scale)

namespace psi::PSI_ISA {

void add_scaled(float* y, const float* a, const float* b, i64 count, float scale) {
  constexpr i64 PIECE = 16384;
  parallel((count + PIECE - 1) / PIECE, [&](i64 task, int) {
    const i64 begin = task * PIECE, end = begin + PIECE < count ? begin + PIECE : count;
    const vf s = set1(scale);
    for (i64 k = begin; k < end; k += 16) {
      int m = (int)(end - k < 16 ? end - k : 16);
      store_n(y + k, (load_n(a + k, m) + load_n(b + k, m)) * s, m);
    }
  });
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
PSI_API i32 psi_add_scaled(void* y, const void* a, const void* b, f64 count, f32 scale) {
  PSI_OPENED("psi_add_scaled");
  if (!y || !a || !b || !(count >= 0)) return psi::fail(PSI_INVALID, "[psi_add_scaled] expected non-null pointers and a count, got %.0f.", count);
  PSI_RUN(add_scaled)((float*)y, (const float*)a, (const float*)b, (i64)count, scale);
  return PSI_OK;
}

PSI_API i32 psi_add_scaled_ref(void* y, const void* a, const void* b, f64 count, f32 scale) {
  for (i64 i = 0; i < (i64)count; i++) ((float*)y)[i] = (((const float*)a)[i] + ((const float*)b)[i]) * scale;
  return PSI_OK;
}
#endif
