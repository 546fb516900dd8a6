/*
 * Sums to one number in one order: pieces of 4096 elements, each summed in f64 by one block's fixed tree, then the pieces.
 * sum: scale * sum x, by one block; spread, its gradient: y[i] = scale * x[0]; sum_squares and clip_factor: the global norm.
 */
#include "train.cuh"

namespace psi {

constexpr int SUM_THREADS = 256, TOTAL_THREADS = 1024;
constexpr i64 SUM_PIECE = 4096;

__global__ void sum_kernel(Out y, In x, i64 count, double scale) {
  __shared__ double shared[32];
  let_next_start();
  wait_for_inputs();
  double sum = 0;
  for (i64 i = threadIdx.x; i < count; i += TOTAL_THREADS) sum += x.at(i);
  sum = block_total(sum, shared);
  if (threadIdx.x == 0) y.put(0, (float)(scale * sum));
}

__global__ void spread_kernel(Out y, In x, i64 count, float scale) {
  let_next_start();
  wait_for_inputs();
  const i64 i = flat_place();
  if (i >= count) return;
  const float v = scale * x.at(0);
  put_some4(y, i, count - i, i + 4 <= count, make_float4(v, v, v, v));
}

__global__ void square_pieces_kernel(double* parts, In x, i64 count) {
  __shared__ double shared[32];
  let_next_start();
  wait_for_inputs();
  const i64 begin = (i64)blockIdx.x * SUM_PIECE, end = begin + SUM_PIECE < count ? begin + SUM_PIECE : count;
  double sum = 0;
  for (i64 i = begin + 4 * threadIdx.x; i < end; i += 4 * SUM_THREADS) {
    const float4 v = some4(x, i, end - i, i + 4 <= end);
    sum += ((double)v.x * v.x + (double)v.y * v.y) + ((double)v.z * v.z + (double)v.w * v.w);
  }
  sum = block_total(sum, shared);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

__global__ void square_total_kernel(double* y, const double* parts, i64 pieces) {
  __shared__ double shared[32];
  let_next_start();
  wait_for_inputs();
  double sum = 0;
  for (i64 i = threadIdx.x; i < pieces; i += TOTAL_THREADS) sum += parts[i];
  sum = block_total(sum, shared);
  if (threadIdx.x == 0) y[0] = sum;
}

__global__ void clip_kernel(float* factor, double* norm, const double* squares, const float* losses, i32 count, i32 loss_count, double limit) {
  let_next_start();
  wait_for_inputs();
  double total = 0;
  for (i32 i = 0; i < count; i++) total += squares[i];
  const double length = sqrt(total);
  bool finite = isfinite(length);
  for (i32 i = 0; i < loss_count; i++) finite = finite && isfinite(losses[i]);
  norm[0] = length;
  factor[0] = !finite ? __int_as_float(0x7fc00000) : length > limit ? (float)(limit / length) : 1.0f;
}

}  // namespace psi

PSI_API i32 psi_sum(void* y, const void* x, i32 dtype, f64 count, f64 scale) {
  using namespace psi;
  PSI_REFUSE_F64("psi_sum", dtype);
  if (!y || !x || !(count >= 0)) return fail(PSI_INVALID, "[psi_sum] expected pointers and a count of at least 0, got count %.0f.", count);
  return launch("psi_sum", sum_kernel, dim3(1), dim3(TOTAL_THREADS), 0, Out{y, half_at(dtype, 0)}, In{x, half_at(dtype, 1)}, (i64)count, scale);
}
PSI_API i32 psi_spread(void* y, const void* x, i32 dtype, f64 count, f64 scale) {
  using namespace psi;
  PSI_REFUSE_F64("psi_spread", dtype);
  if (!y || !x || !(count >= 0)) return fail(PSI_INVALID, "[psi_spread] expected pointers and a count of at least 0, got count %.0f.", count);
  return launch("psi_spread", spread_kernel, flat_grid((i64)count), dim3(FLAT_THREADS), 0, Out{y, half_at(dtype, 0)}, In{x, half_at(dtype, 1)}, (i64)count, (float)scale);
}
PSI_API i32 psi_sum_squares(void* y, const void* x, void* scratch, i32 dtype, f64 count, f64 scratch_bytes) {
  using namespace psi;
  PSI_REFUSE_F64("psi_sum_squares", dtype);
  const i64 n = (i64)count, pieces = PSI_DIVIDE_UP(n, SUM_PIECE);
  if (!y || !x || !(count >= 0) || (pieces > 0 && (!scratch || scratch_bytes < 8.0 * (f64)pieces)))
    return fail(PSI_INVALID, "[psi_sum_squares] expected pointers, a count of at least 0 and %.0f bytes of scratch, got count %.0f, %.0f bytes.", 8.0 * (f64)pieces, count, scratch_bytes);
  PSI_TRY(launch("psi_sum_squares", square_pieces_kernel, dim3((unsigned)pieces), dim3(SUM_THREADS), 0, (double*)scratch, In{x, half_at(dtype, 1)}, n));
  return launch("psi_sum_squares", square_total_kernel, dim3(1), dim3(TOTAL_THREADS), 0, (double*)y, (const double*)scratch, pieces);
}
PSI_API i32 psi_clip_factor(void* factor, void* norm, const void* squares, const void* losses, i32 count, i32 loss_count, f64 limit) {
  using namespace psi;
  if (!factor || !norm || !squares || count < 0 || loss_count < 0 || (loss_count > 0 && !losses) || !(limit > 0))
    return fail(PSI_INVALID, "[psi_clip_factor] expected pointers, counts of at least 0 and a limit above 0, got count %d, %d losses, limit %g.", count, loss_count, limit);
  return launch("psi_clip_factor", clip_kernel, dim3(1), dim3(1), 0, (float*)factor, (double*)norm, (const double*)squares, (const float*)losses, count, loss_count, limit);
}
