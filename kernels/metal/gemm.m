/* psi_gemm and the product that other launchers use: see gemm.metal. */
#include "gemm.h"

#include "gemm_launch.h"

i32 psi_gemm_product(const PsiGemm* g) {
  f64 c_count = (f64)g->m * g->n, a_count = (f64)g->m * g->k, b_count = (f64)g->n * g->k;
  if (g->groups != GEMM_ROWS) c_count *= g->batch;
  if (g->groups == GEMM_PLAIN) a_count *= g->batch;
  if (g->groups != GEMM_SUMS) b_count *= g->batch;
  PsiLaunch l = psi_number_kernel("gemm", "gemm_f32");
  psi_constant_bool(&l, 0, g->trans_a);
  psi_constant_bool(&l, 1, g->trans_b);
  psi_constant_bool(&l, 2, g->bias != NULL);
  psi_constant_bool(&l, 3, g->accumulate);
  psi_constant_int(&l, 4, g->groups);
  psi_write_numbers(&l, 0, g->c, c_count);
  psi_read_numbers(&l, 1, g->k ? g->a : (PsiNumbers){NULL, g->a.half}, a_count);
  psi_read_numbers(&l, 2, g->k ? g->b : (PsiNumbers){NULL, g->b.half}, b_count);
  psi_read(&l, 3, g->bias, g->bias ? 4.0 * g->n * (g->groups == GEMM_ROWS ? g->batch : 1) : 0);
  psi_read(&l, 4, g->starts, g->starts ? 4.0 * (g->batch + 1.0) : 0);
  GemmParams p = {(u32)g->m, (u32)g->n, (u32)g->k};
  psi_params(&l, 5, &p, sizeof p);
  l.work = GEMM_SIDE * GEMM_SIDE / (f64)GEMM_THREADS * g->k;
  return psi_launch(&l, PSI_DIVIDE_UP(g->n, GEMM_SIDE), PSI_DIVIDE_UP(g->m, GEMM_SIDE), g->batch, GEMM_THREADS, 1, 1);
}

PSI_API i32 psi_gemm(void* c, const void* a, const void* b, const void* bias, void* scratch, i32 batch, i32 m, i32 n, i32 k, i32 trans_a, i32 trans_b,
                     i32 a_type, i32 b_type, i32 c_type, i32 accumulate, f64 scratch_bytes) {
  (void)scratch;
  (void)scratch_bytes;
  PSI_TRY(PSI_CHECK_SIZES("psi_gemm", batch, m, n, k));
  for (i32 i = 0; i < 3; i++) {
    i32 type = i == 0 ? a_type : i == 1 ? b_type : c_type;
    if (type != PSI_F32 && type != PSI_BF16) return psi_fail(PSI_UNSUPPORTED, "[psi_gemm] expected F32 or BF16 on Metal, got %s (type %d).", type == PSI_F64 ? "F64" : "another", type);
  }
  PSI_TRY(PSI_CHECK_POINTERS("psi_gemm", c, a, b));
  if (batch == 0 || m == 0 || n == 0) return PSI_OK;
  PsiGemm g = {{c, c_type == PSI_BF16}, {a, a_type == PSI_BF16}, {b, b_type == PSI_BF16}, bias, NULL, batch, m, n, k, trans_a != 0, trans_b != 0, accumulate != 0, GEMM_PLAIN};
  return psi_gemm_product(&g);
}
