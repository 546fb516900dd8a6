/*
 * The scaled sum of a head's losses together with its gradient, so that logits are made once: for some rows at a time
 *   z = softcap(x w^T),  loss += scale (lse - z[target]),  dz = (exp(z - lse) - [j = target]) scale (1 - (z/cap)^2),
 *   dx = dz w,  dw (+)= dz^T x
 * x [tokens,width] and w [vocabulary,width] bf16, dx bf16, dw and loss f32; logits are bf16 in scratch, dz in their place.
 * A row's block reads its logits from memory once, from L2 the second time.
 */
#include "cross_entropy.cuh"

namespace psi {

__global__ void __launch_bounds__(LOSS_THREADS) head_rows_kernel(float* loss, const i32* targets, Logits l, float scale) {
  let_next_start();
  wait_for_inputs();
  const i64 row = blockIdx.x;
  const i32 target = targets[row];
  const bool counts = (u32)target < (u32)l.vocabulary;
  const float lse = row_log_sum(l, row);
  if (threadIdx.x == 0) loss[row] = counts ? lse - l.value(l.z.in().at(row * l.pitch + target)) : 0.0f;
  __syncthreads(); /* the target's logit has been read */
  row_gradient(l, row, lse, target, counts ? scale : 0.0f);
}

__global__ void scale_by_kernel(Out y, In x, const float* factor, i64 count, bool add) {
  let_next_start();
  wait_for_inputs();
  const i64 i = flat_place();
  if (i >= count) return;
  const bool whole = i + 4 <= count;
  const float f = factor[0];
  float4 v = some4(x, i, count - i, whole);
  v = make_float4(f * v.x, f * v.y, f * v.z, f * v.w);
  if (add) {
    const float4 before = some4(y.in(), i, count - i, whole);
    v = make_float4(before.x + v.x, before.y + v.y, before.z + v.z, before.w + v.w);
  }
  put_some4(y, i, count - i, whole, v);
}

}  // namespace psi

PSI_API i32 psi_head_loss(void* loss, void* dx, void* dw, const void* x, const void* w, const void* targets, void* scratch, i32 tokens, i32 width, i32 vocabulary, i32 rows, f64 scale, f64 softcap, f64 scratch_bytes) {
  using namespace psi;
  const char* op = "psi_head_loss";
  if (!loss || !dx || !dw || !x || !w || !targets || tokens < 1 || width < 1 || vocabulary < 1 || rows < 1 || !(softcap >= 0))
    return fail(PSI_INVALID, "[%s] expected pointers, positive sizes and a soft-cap of at least 0, got tokens %d, width %d, vocabulary %d, rows %d.", op, tokens, width, vocabulary, rows);
  const i64 pitch = logit_pitch(vocabulary), losses = PSI_DIVIDE_UP(tokens, 16) * 64, logits = rows * pitch * 2;
  if (!scratch || scratch_bytes < (f64)(losses + logits)) return fail(PSI_INVALID, "[%s] expected %lld bytes of scratch, got %.0f.", op, (long long)(losses + logits), scratch_bytes);
  float* row_losses = (float*)scratch;
  const Logits l = {{(u8*)scratch + losses, true}, pitch, vocabulary, (float)softcap};
  u8* rest = (u8*)scratch + losses + logits;
  const f64 rest_bytes = scratch_bytes - (f64)(losses + logits);
  const GemmSide weights = gemm_side(w, true, true, width, 0), turned = gemm_side(w, true, false, width, 0);
  const GemmSide dz = gemm_side(l.z.p, true, true, pitch, 0), dz_turned = gemm_side(l.z.p, true, false, pitch, 0);
  for (i64 row = 0; row < tokens; row += rows) {
    const i64 count = tokens - row < rows ? tokens - row : rows;
    const u16* in = (const u16*)x + row * width;
    PSI_TRY(product_of(op, gemm_side(in, true, true, width, 0), weights, l.z, nullptr, pitch, count, vocabulary, width, false, rest, rest_bytes));
    PSI_TRY(launch(op, head_rows_kernel, dim3((unsigned)count), dim3(LOSS_THREADS), 0, row_losses + row, (const i32*)targets + row, l, (float)scale));
    PSI_TRY(product_of(op, dz, turned, {(u16*)dx + row * width, true}, nullptr, width, count, width, vocabulary, false, rest, rest_bytes));
    PSI_TRY(product_of(op, dz_turned, gemm_side(in, true, false, width, 0), {dw, false}, nullptr, width, vocabulary, width, count, row > 0, rest, rest_bytes));
  }
  return psi_sum(loss, row_losses, F32, tokens, scale);
}

PSI_API i32 psi_scale_by(void* y, const void* x, const void* factor, i32 add, i32 dtype, f64 count) {
  using namespace psi;
  PSI_REFUSE_F64("psi_scale_by", dtype);
  if (!y || !x || !factor || !(count >= 0) || half_at(dtype, 2)) return fail(PSI_INVALID, "[psi_scale_by] expected pointers, a factor in f32 and a count of at least 0, got count %.0f.", count);
  return launch("psi_scale_by", scale_by_kernel, flat_grid((i64)count), dim3(FLAT_THREADS), 0, Out{y, half_at(dtype, 0)}, In{x, half_at(dtype, 1)}, (const float*)factor, (i64)count, add != 0);
}
