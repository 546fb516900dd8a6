/*
 * Sums to one number in one order: pieces of 4096 elements, each summed in f64 from its first to its last, then the pieces.
 * sum: scale * sum x; spread, its gradient: y[i] = scale * x[0]; sum_squares and clip_factor: the global norm.
 */
#include <math.h>

#include "../common/pool.h"
#include "train.h"

PSI_KERNEL(squares_of_pieces, double* parts, const float* x, i64 count)

namespace psi {
constexpr i64 SUM_PIECE = 4096;
}

namespace psi::PSI_ISA {

void squares_of_pieces(double* parts, const float* x, i64 count) {
  parallel((count + SUM_PIECE - 1) / SUM_PIECE, [&](i64 task, int) {
    const i64 end = (task + 1) * SUM_PIECE < count ? (task + 1) * SUM_PIECE : count;
    double lanes[8] = {};
    i64 k = task * SUM_PIECE;
    for (; k + 8 <= end; k += 8)
      for (int l = 0; l < 8; l++) lanes[l] += (double)x[k + l] * x[k + l];
    for (int l = 0; k < end; k++, l++) lanes[l] += (double)x[k] * x[k];
    parts[task] = ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
  });
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
template <class T>
static double plain(const T* x, i64 count, bool squared) {
  double total = 0;
  for (i64 from = 0; from < count; from += psi::SUM_PIECE) {
    double part = 0;
    for (i64 i = from; i < count && i < from + psi::SUM_PIECE; i++) part += squared ? (double)x[i] * x[i] : (double)x[i];
    total += part;
  }
  return total;
}

PSI_API i32 psi_sum_ref(void* y, const void* x, i32 dtype, f64 count, f64 scale) {
  PSI_WITH_REAL(dtype, T, ((T*)y)[0] = (T)(scale * plain((const T*)x, (i64)count, false)));
  return PSI_OK;
}
PSI_API i32 psi_spread_ref(void* y, const void* x, i32 dtype, f64 count, f64 scale) {
  for (i64 i = 0; i < (i64)count; i++) PSI_WITH_REAL(dtype, T, ((T*)y)[i] = (T)(scale * ((const T*)x)[0]));
  return PSI_OK;
}
PSI_API i32 psi_sum_squares_ref(void* y, const void* x, void*, i32 dtype, f64 count, f64) {
  PSI_WITH_REAL(dtype, T, ((double*)y)[0] = plain((const T*)x, (i64)count, true));
  return PSI_OK;
}
PSI_API i32 psi_clip_factor_ref(void* factor, void* norm, const void* squares, const void* losses, i32 count, i32 loss_count, f64 limit) {
  double total = 0;
  for (i64 i = 0; i < count; i++) total += ((const double*)squares)[i];
  const double length = sqrt(total);
  bool finite = isfinite(length);
  for (i64 i = 0; i < loss_count; i++) finite = finite && isfinite(((const float*)losses)[i]);
  ((double*)norm)[0] = length;
  ((float*)factor)[0] = !finite ? NAN : (float)(length > limit ? limit / length : 1);
  return PSI_OK;
}

static i32 check(const char* where, bool pointers, i32 dtype, f64 count) {
  if (!pointers || !psi::is_real(dtype) || !(count >= 0)) return psi::fail(PSI_INVALID, "[%s] expected pointers and f32 or f64, got dtype %d, count %.0f.", where, dtype, count);
  return PSI_OK;
}
PSI_API i32 psi_sum(void* y, const void* x, i32 dtype, f64 count, f64 scale) {
  i32 status = check("psi_sum", y && x, dtype, count);
  return status != PSI_OK ? status : psi_sum_ref(y, x, dtype, count, scale);
}
PSI_API i32 psi_spread(void* y, const void* x, i32 dtype, f64 count, f64 scale) {
  i32 status = check("psi_spread", y && x, dtype, count);
  return status != PSI_OK ? status : psi_spread_ref(y, x, dtype, count, scale);
}
PSI_API i32 psi_sum_squares(void* y, const void* x, void* scratch, i32 dtype, f64 count, f64 scratch_bytes) {
  PSI_OPENED("psi_sum_squares");
  i32 status = check("psi_sum_squares", y && x, dtype, count);
  if (status != PSI_OK) return status;
  if (dtype == psi::F64) return psi_sum_squares_ref(y, x, nullptr, dtype, count, 0);
  const i64 pieces = ((i64)count + psi::SUM_PIECE - 1) / psi::SUM_PIECE;
  if (!scratch || scratch_bytes < 8.0 * (f64)pieces) return psi::fail(PSI_INVALID, "[psi_sum_squares] expected %.0f bytes of scratch, got %.0f.", 8.0 * (f64)pieces, scratch_bytes);
  double* parts = (double*)scratch;
  PSI_RUN(squares_of_pieces)(parts, (const float*)x, (i64)count);
  double total = 0;
  for (i64 i = 0; i < pieces; i++) total += parts[i];
  ((double*)y)[0] = total;
  return PSI_OK;
}
PSI_API i32 psi_clip_factor(void* factor, void* norm, const void* squares, const void* losses, i32 count, i32 loss_count, f64 limit) {
  if (!factor || !norm || !squares || count < 0 || loss_count < 0 || (loss_count > 0 && !losses) || !(limit > 0))
    return psi::fail(PSI_INVALID, "[psi_clip_factor] expected pointers and a limit above 0, got count %d, %d losses, limit %g.", count, loss_count, limit);
  return psi_clip_factor_ref(factor, norm, squares, losses, count, loss_count, limit);
}
#endif
