/* y = x in another float type, to the nearest even, and fill: y[i] = value. Pieces of 8192 elements. */
#include "../common/half.h"
#include "../common/pool.h"
#include "../common/simd.h"
#include "train.h"

PSI_KERNEL(cast_bf16, u16* y, const float* x, i64 count)
PSI_KERNEL(cast_f32, float* y, const u16* x, i64 count)
PSI_KERNEL(fill_f32, float* y, i64 count, float value)

namespace psi::PSI_ISA {

template <class F>
PSI_INLINE void pieces(i64 count, F&& f) {
  parallel((count + PIECE - 1) / PIECE, [&](i64 task, int) { f(task * PIECE, (task + 1) * PIECE < count ? (task + 1) * PIECE : count); });
}

void cast_bf16(u16* y, const float* x, i64 count) {
  pieces(count, [&](i64 from, i64 to) {
    i64 k = from;
    for (; k + 16 <= to; k += 16) store_bf16(y + k, load(x + k));
    for (; k < to; k++) y[k] = f32_to_bf16(x[k]);
  });
}
void cast_f32(float* y, const u16* x, i64 count) {
  pieces(count, [&](i64 from, i64 to) {
    for (i64 k = from; k < to; k++) y[k] = bf16_to_f32(x[k]);
  });
}
void fill_f32(float* y, i64 count, float value) {
  pieces(count, [&](i64 from, i64 to) {
    for (i64 k = from; k < to; k++) y[k] = value;
  });
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
static double read(const void* x, i64 i, i32 type) {
  return type == psi::F64 ? ((const double*)x)[i] : type == psi::BF16 ? psi::bf16_to_f32(((const u16*)x)[i]) : ((const float*)x)[i];
}

PSI_API i32 psi_cast_ref(void* y, const void* x, i32 from, i32 to, f64 count) {
  for (i64 i = 0; i < (i64)count; i++) {
    const double v = read(x, i, from);
    if (to == psi::F64) ((double*)y)[i] = v;
    else if (to == psi::BF16) ((u16*)y)[i] = psi::f32_to_bf16((float)v);
    else ((float*)y)[i] = (float)v;
  }
  return PSI_OK;
}
PSI_API i32 psi_fill_ref(void* y, i32 dtype, f64 count, f64 value) {
  for (i64 i = 0; i < (i64)count; i++) PSI_WITH_REAL(dtype, T, ((T*)y)[i] = (T)value);
  return PSI_OK;
}

PSI_API i32 psi_cast(void* y, const void* x, i32 from, i32 to, f64 count) {
  PSI_OPENED("psi_cast");
  const auto known = [](i32 t) { return psi::is_real(t) || t == psi::BF16; };
  if (!y || !x || !known(from) || !known(to) || !(count >= 0))
    return psi::fail(PSI_INVALID, "[psi_cast] expected pointers and f32, f64 or bf16, got dtypes %d, %d, count %.0f.", from, to, count);
  if (from == psi::F32 && to == psi::BF16) PSI_RUN(cast_bf16)((u16*)y, (const float*)x, (i64)count);
  else if (from == psi::BF16 && to == psi::F32) PSI_RUN(cast_f32)((float*)y, (const u16*)x, (i64)count);
  else return psi_cast_ref(y, x, from, to, count);
  return PSI_OK;
}
PSI_API i32 psi_fill(void* y, i32 dtype, f64 count, f64 value) {
  PSI_OPENED("psi_fill");
  if (!y || !psi::is_real(dtype) || !(count >= 0)) return psi::fail(PSI_INVALID, "[psi_fill] expected a pointer and f32 or f64, got dtype %d, count %.0f.", dtype, count);
  if (dtype == psi::F64) return psi_fill_ref(y, dtype, count, value);
  PSI_RUN(fill_f32)((float*)y, (i64)count, (float)value);
  return PSI_OK;
}
#endif
