/* psi_sum, psi_spread, psi_sum_squares, psi_clip_factor: see sum.metal. */
#include "sum.h"

#include <string.h>

#include "train.h"

static SumParams params(f64 count, f64 scale, f64 limit) {
  PsiPair s = psi_pair(scale);
  u64 bits;
  memcpy(&bits, &limit, sizeof bits);
  return (SumParams){(u32)count, s.high, s.low, (u32)bits, (u32)(bits >> 32), 0};
}

PSI_API i32 psi_sum(void* y, const void* x, i32 dtype, f64 count, f64 scale) {
  PSI_TRY(psi_check_count("psi_sum", count));
  PSI_TRY(psi_check_numbers("psi_sum", dtype, 0x3));
  PSI_TRY(PSI_CHECK_POINTERS("psi_sum", y, x));
  PsiLaunch l = psi_number_kernel("sum", "sum_f32");
  psi_write_numbers(&l, 0, psi_numbers(y, dtype, 0), 1);
  psi_read_numbers(&l, 1, psi_numbers(count > 0 ? x : NULL, dtype, 1), count);
  SumParams p = params(count, scale, 0);
  psi_params(&l, 2, &p, sizeof p);
  return psi_launch(&l, 1, 1, 1, psi_row_threads((i64)count), 1, 1);
}

PSI_API i32 psi_spread(void* y, const void* x, i32 dtype, f64 count, f64 scale) {
  PSI_TRY(psi_check_count("psi_spread", count));
  PSI_TRY(psi_check_numbers("psi_spread", dtype, 0x3));
  if (count == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_spread", y, x));
  PsiLaunch l = psi_number_kernel("sum", "spread_f32");
  psi_write_numbers(&l, 0, psi_numbers(y, dtype, 0), count);
  psi_read_numbers(&l, 1, psi_numbers(x, dtype, 1), 1);
  SumParams p = params(count, scale, 0);
  psi_params(&l, 2, &p, sizeof p);
  return psi_launch(&l, PSI_DIVIDE_UP(count, 256), 1, 1, 256, 1, 1);
}

PSI_API i32 psi_sum_squares(void* y, const void* x, void* scratch, i32 dtype, f64 count, f64 scratch_bytes) {
  PSI_TRY(psi_check_count("psi_sum_squares", count));
  PSI_TRY(psi_check_numbers("psi_sum_squares", dtype, 0x2));
  PSI_TRY(PSI_CHECK_POINTERS("psi_sum_squares", y, x));
  i64 pieces = PSI_DIVIDE_UP(count, SUM_PIECE);
  if (pieces > 0) {
    PSI_TRY(psi_check_scratch("psi_sum_squares", scratch, scratch_bytes, 8.0 * (f64)pieces));
    PsiLaunch l = psi_number_kernel("sum", "sum_squares_f32");
    psi_write(&l, 0, scratch, 8.0 * (f64)pieces);
    psi_read_numbers(&l, 1, psi_numbers(x, dtype, 1), count);
    SumParams p = params(count, 1, 0);
    psi_params(&l, 2, &p, sizeof p);
    PSI_TRY(psi_launch(&l, pieces, 1, 1, psi_row_threads((i64)count), 1, 1));
  }
  PsiLaunch l = psi_number_kernel("sum", "sum_parts");
  psi_write(&l, 0, y, 8);
  psi_read(&l, 1, pieces > 0 ? scratch : NULL, 8.0 * (f64)pieces);
  SumParams p = params((f64)pieces, 1, 0);
  psi_params(&l, 2, &p, sizeof p);
  return psi_launch(&l, 1, 1, 1, psi_row_threads(pieces), 1, 1);
}

PSI_API i32 psi_clip_factor(void* factor, void* norm, const void* squares, const void* losses, i32 count, i32 loss_count, f64 limit) {
  PSI_TRY(PSI_CHECK_SIZES("psi_clip_factor", count, loss_count));
  if (!(limit > 0)) return psi_fail(PSI_INVALID, "[psi_clip_factor] expected a limit above 0, got %g.", limit);
  PSI_TRY(PSI_CHECK_POINTERS("psi_clip_factor", factor, norm, squares));
  if (loss_count > 0) PSI_TRY(PSI_CHECK_POINTERS("psi_clip_factor", losses));
  PsiLaunch l = psi_number_kernel("sum", "clip_factor_f32");
  psi_write(&l, 0, factor, 4);
  psi_write(&l, 1, norm, 8);
  psi_read(&l, 2, count > 0 ? squares : NULL, 8.0 * count);
  psi_read(&l, 3, loss_count > 0 ? losses : NULL, 4.0 * loss_count);
  SumParams p = params(count, 1, limit);
  p.losses = (u32)loss_count;
  psi_params(&l, 4, &p, sizeof p);
  return psi_launch(&l, 1, 1, 1, 32, 1, 1);
}
