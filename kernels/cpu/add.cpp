/* y = a + b, `count` f32 elements; y may be a or b. Tasks: pieces of 16384 elements. */
#include "../common/pool.h"
#include "../common/simd.h"

PSI_KERNEL(add_elements, float* y, const float* a, const float* b, i64 count)

namespace psi::PSI_ISA {

void add_elements(float* y, const float* a, const float* b, i64 count) {
  constexpr i64 PIECE = 16384;
  parallel((count + PIECE - 1) / PIECE, [&](i64 task, int) {
    const i64 begin = task * PIECE, end = begin + PIECE < count ? begin + PIECE : count;
    for (i64 k = begin; k < end; k += 16) {
      int m = (int)(end - k < 16 ? end - k : 16);
      store_n(y + k, load_n(a + k, m) + load_n(b + k, m), m);
    }
  });
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
PSI_API i32 psi_add(void* y, const void* a, const void* b, f64 count) {
  PSI_OPENED("psi_add");
  if (!y || !a || !b || !(count >= 0)) return psi::fail(PSI_INVALID, "[psi_add] expected non-null pointers and a count, got %.0f.", count);
  PSI_RUN(add_elements)((float*)y, (const float*)a, (const float*)b, (i64)count);
  return PSI_OK;
}

PSI_API i32 psi_add_ref(void* y, const void* a, const void* b, f64 count) {
  for (i64 i = 0; i < (i64)count; i++) ((float*)y)[i] = ((const float*)a)[i] + ((const float*)b)[i];
  return PSI_OK;
}
#endif
