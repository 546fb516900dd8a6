/* y = cap * tanh(x / cap), `count` f32 elements; y may be x. Tasks: pieces of 8192 elements. */
#include <math.h>

#include "../common/pool.h"
#include "../common/tanh.h"

PSI_KERNEL(softcap, float* y, const float* x, i64 count, float cap)

namespace psi::PSI_ISA {

void softcap(float* y, const float* x, i64 count, float cap) {
  constexpr i64 PIECE = 8192;
  parallel((count + PIECE - 1) / PIECE, [&](i64 task, int) {
    const i64 begin = task * PIECE, end = begin + PIECE < count ? begin + PIECE : count;
    for (i64 k = begin; k < end; k += 16) {
      int m = (int)(end - k < 16 ? end - k : 16);
      store_n(y + k, set1(cap) * tanh(load_n(x + k, m) / set1(cap)), m);
    }
  });
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
PSI_API i32 psi_softcap(void* y, const void* x, f64 count, f32 cap) {
  PSI_OPENED("psi_softcap");
  if (!y || !x || !(count >= 0) || !(cap > 0))
    return psi::fail(PSI_INVALID, "[psi_softcap] expected non-null pointers, a count and a cap above 0, got %.0f, %g.", count, (double)cap);
  PSI_RUN(softcap)((float*)y, (const float*)x, (i64)count, cap);
  return PSI_OK;
}

PSI_API i32 psi_softcap_ref(void* y, const void* x, f64 count, f32 cap) {
  for (i64 i = 0; i < (i64)count; i++) ((float*)y)[i] = (float)(cap * tanh(((const float*)x)[i] / (double)cap));
  return PSI_OK;
}
#endif
