/* psi_cast, psi_fill: see cast.metal. */
#include "cast.h"

#include "train.h"

PSI_API i32 psi_cast(void* y, const void* x, i32 from, i32 to, f64 count) {
  PSI_TRY(psi_check_count("psi_cast", count));
  bool reads = from == PSI_F32 || from == PSI_BF16, writes = to == PSI_F32 || to == PSI_BF16;
  if (!reads || !writes)
    return psi_fail(from == PSI_F64 || to == PSI_F64 ? PSI_UNSUPPORTED : PSI_INVALID, "[psi_cast] expected F32 or BF16 on Metal, got types %d and %d.", from, to);
  if (count == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_cast", y, x));
  if (from == to) return psi_copy(y, x, (from == PSI_F32 ? 4 : 2) * count);
  PsiLaunch l = psi_number_kernel("cast", from == PSI_F32 ? "cast_f32_bf16" : "cast_bf16_f32");
  psi_write(&l, 0, y, (to == PSI_F32 ? 4 : 2) * count);
  psi_read(&l, 1, x, (from == PSI_F32 ? 4 : 2) * count);
  CastParams p = {(u32)count, 0};
  psi_params(&l, 2, &p, sizeof p);
  return psi_launch(&l, PSI_DIVIDE_UP(count, 256), 1, 1, 256, 1, 1);
}

PSI_API i32 psi_fill(void* y, i32 dtype, f64 count, f64 value) {
  PSI_TRY(psi_check_count("psi_fill", count));
  PSI_TRY(psi_check_numbers("psi_fill", dtype, 0x1));
  if (count == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_fill", y));
  PsiLaunch l = psi_number_kernel("cast", "fill_f32");
  psi_write_numbers(&l, 0, psi_numbers(y, dtype, 0), count);
  CastParams p = {(u32)count, (f32)value};
  psi_params(&l, 1, &p, sizeof p);
  return psi_launch(&l, PSI_DIVIDE_UP(count, 256), 1, 1, 256, 1, 1);
}
