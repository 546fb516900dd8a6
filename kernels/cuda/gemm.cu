/*
 * The launcher of training's matrix products: Hopper's form (gemm_wgmma.cu) where it applies, else gemm_mma.cu's; for shapes
 * that were given to it by name, cuBLASLt (cublaslt.cu).
 */
#include "cublaslt.h"
#include "gemm.h"

PSI_API i32 psi_gemm(void* c, const void* a, const void* b, const void* bias, void* scratch, i32 batch, i32 m, i32 n, i32 k, i32 trans_a, i32 trans_b, i32 a_type, i32 b_type, i32 c_type, i32 accumulate, f64 scratch_bytes) {
  using namespace psi;
  if (!c || !a || !b || batch < 0 || m < 0 || n < 0 || k < 0)
    return fail(PSI_INVALID, "[psi_gemm] expected non-null pointers and sizes of at least 0, got batch %d, m %d, n %d, k %d.", batch, m, n, k);
  for (i32 type : {a_type, b_type, c_type})
    if (type != F32 && type != BF16) return fail(PSI_UNSUPPORTED, "[psi_gemm] expected f32 or bf16 on CUDA, got types %d, %d, %d.", a_type, b_type, c_type);
  Gemm g = {};
  g.a = gemm_side(a, a_type == BF16, !trans_a, trans_a ? m : k, (i64)m * k);
  g.b = gemm_side(b, b_type == BF16, trans_b != 0, trans_b ? k : n, (i64)n * k);
  g.c = {c, c_type == BF16};
  g.bias = (const float*)bias;
  g.c_pitch = n, g.c_batch = (i64)m * n;
  g.m = m, g.n = n, g.k = k, g.batch = batch;
  g.add = accumulate != 0;
  if (batch == 0 || m == 0 || n == 0) return PSI_OK;
  if (cublaslt_has(g)) return cublaslt_gemm("psi_gemm", g, scratch, scratch_bytes);
  return gemm_fits_wgmma(g) ? gemm_wgmma("psi_gemm", g, scratch, scratch_bytes) : gemm_any("psi_gemm", g);
}
