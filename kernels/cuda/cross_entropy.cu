/*
 * loss[t] = lse[t] - z[t,target], z = softcap(x w^T + bias), with z made for as many rows at a time as scratch holds, in
 * bf16 where x or w are, else in f32; backward makes each row again:
 *   dz = (exp(z - lse) - [j = target]) dloss[t] (1 - (z/cap)^2);  dx = dz w;  dw += dz^T x;  dbias += sum over rows of dz.
 * A target below 0, or past the vocabulary, has loss 0 and no gradient.
 */
#include "columns.cuh"
#include "cross_entropy.cuh"

namespace psi {

__global__ void __launch_bounds__(LOSS_THREADS) row_loss_kernel(float* loss, float* lse, const i32* targets, Logits l) {
  let_next_start();
  wait_for_inputs();
  const i64 row = blockIdx.x;
  const float sum = row_log_sum(l, row);
  if (threadIdx.x != 0) return;
  const i32 target = targets[row];
  lse[row] = sum;
  loss[row] = (u32)target < (u32)l.vocabulary ? sum - l.value(l.z.in().at(row * l.pitch + target)) : 0.0f;
}

__global__ void __launch_bounds__(LOSS_THREADS) row_grad_kernel(const float* lse, const float* dloss, const i32* targets, Logits l) {
  let_next_start();
  wait_for_inputs();
  const i64 row = blockIdx.x;
  const i32 target = targets[row];
  row_gradient(l, row, lse[row], target, (u32)target < (u32)l.vocabulary ? dloss[row] : 0.0f);
}

struct Head {
  In x, w;
  const float* bias;
  i64 tokens, width, vocabulary, pitch, rows; /* rows of logits at a time */
  Logits logits;
  u8* rest; /* scratch after the logits */
  f64 rest_bytes;
};

static i32 open_head(const char* where, bool pointers, Head& h, void* scratch, f64 scratch_bytes, i32 dtype, f64 softcap) {
  PSI_REFUSE_F64(where, dtype);
  if (!pointers || h.tokens < 0 || h.width < 1 || h.vocabulary < 1 || !(softcap >= 0))
    return fail(PSI_INVALID, "[%s] expected pointers, positive sizes and a soft-cap of at least 0, got tokens %lld, width %lld, vocabulary %lld.", where, (long long)h.tokens, (long long)h.width, (long long)h.vocabulary);
  const bool half = h.x.half || h.w.half;
  h.pitch = logit_pitch(h.vocabulary);
  const i64 row_bytes = h.pitch * (half ? 2 : 4), fits = scratch ? (i64)scratch_bytes / row_bytes : 0;
  if (fits < 1) return fail(PSI_INVALID, "[%s] expected at least %lld bytes of scratch, got %.0f.", where, (long long)row_bytes, scratch_bytes);
  h.rows = fits < h.tokens ? fits >= 128 ? fits / 128 * 128 : fits : h.tokens;
  h.logits = {{scratch, half}, h.pitch, (i32)h.vocabulary, (float)softcap};
  const i64 used = PSI_DIVIDE_UP(h.rows * row_bytes, 64) * 64;
  h.rest = (u8*)scratch + used;
  h.rest_bytes = scratch_bytes - (f64)used;
  return PSI_OK;
}

static const void* row_of(const In& x, i64 at) { return x.half ? (const void*)((const u16*)x.p + at) : (const void*)((const float*)x.p + at); }

static i32 make_logits(const char* op, const Head& h, i64 row, i64 rows) {
  const GemmSide a = gemm_side(row_of(h.x, row * h.width), h.x.half, true, h.width, 0), b = gemm_side(h.w.p, h.w.half, true, h.width, 0);
  return product_of(op, a, b, h.logits.z, h.bias, h.pitch, rows, h.vocabulary, h.width, false, h.rest, h.rest_bytes);
}

}  // namespace psi

PSI_API i32 psi_cross_entropy(void* loss, void* lse, const void* x, const void* w, const void* bias, const void* targets, void* scratch, i32 tokens, i32 width, i32 vocabulary, i32 dtype, f64 softcap, f64 scratch_bytes) {
  using namespace psi;
  const char* op = "psi_cross_entropy";
  Head h = {{x, half_at(dtype, 2)}, {w, half_at(dtype, 3)}, (const float*)bias, tokens, width, vocabulary, 0, 0, {}, nullptr, 0};
  PSI_TRY(open_head(op, loss && lse && x && w && targets, h, scratch, scratch_bytes, dtype, softcap));
  for (i64 row = 0; row < tokens; row += h.rows) {
    const i64 rows = tokens - row < h.rows ? tokens - row : h.rows;
    PSI_TRY(make_logits(op, h, row, rows));
    PSI_TRY(launch(op, row_loss_kernel, dim3((unsigned)rows), dim3(LOSS_THREADS), 0, (float*)loss + row, (float*)lse + row, (const i32*)targets + row, h.logits));
  }
  return PSI_OK;
}

PSI_API i32 psi_cross_entropy_grad(void* dx, void* dw, void* dbias, const void* dloss, const void* x, const void* w, const void* bias, const void* targets, const void* lse, void* scratch, i32 tokens, i32 width, i32 vocabulary, i32 dtype, f64 softcap, f64 scratch_bytes) {
  using namespace psi;
  const char* op = "psi_cross_entropy_grad";
  Head h = {{x, half_at(dtype, 4)}, {w, half_at(dtype, 5)}, (const float*)bias, tokens, width, vocabulary, 0, 0, {}, nullptr, 0};
  PSI_TRY(open_head(op, dx && dloss && x && w && targets && lse, h, scratch, scratch_bytes, dtype, softcap));
  const Out out = {dx, half_at(dtype, 0)};
  const bool half = h.logits.z.half;
  for (i64 row = 0; row < tokens; row += h.rows) {
    const i64 rows = tokens - row < h.rows ? tokens - row : h.rows;
    PSI_TRY(make_logits(op, h, row, rows));
    PSI_TRY(launch(op, row_grad_kernel, dim3((unsigned)rows), dim3(LOSS_THREADS), 0, (const float*)lse + row, (const float*)dloss + row, (const i32*)targets + row, h.logits));
    const Out part = {(void*)row_of(out.in(), row * width), out.half};
    const GemmSide dz = gemm_side(h.logits.z.p, half, true, h.pitch, 0), dz_turned = gemm_side(h.logits.z.p, half, false, h.pitch, 0);
    const GemmSide weights = gemm_side(w, h.w.half, false, width, 0), inputs = gemm_side(row_of(h.x, row * width), h.x.half, false, width, 0);
    PSI_TRY(product_of(op, dz, weights, part, nullptr, width, rows, width, vocabulary, false, h.rest, h.rest_bytes));
    if (dw) PSI_TRY(product_of(op, dz_turned, inputs, {dw, false}, nullptr, width, vocabulary, width, rows, true, h.rest, h.rest_bytes));
    if (!dbias) continue;
    i32 chunks = 0;
    PSI_TRY(column_parts_of(op, ColumnTerms{h.logits.z.in(), h.pitch}, nullptr, rows, vocabulary, 1, chunks));
    PSI_TRY(add_column_parts(op, (float*)dbias, vocabulary, 1, 1, 0, chunks, 1.0f));
  }
  return PSI_OK;
}
