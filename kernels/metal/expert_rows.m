/* psi_expert_rows, psi_expert_combine and their gradients: see expert_rows.metal. */
#include "expert_rows.h"

#include "train.h"

static i32 check(const char* where, i32 tokens, i32 used, i32 width, i32 dtype, u32 halves) {
  PSI_TRY(PSI_CHECK_ROWS(where, tokens, used, width));
  PSI_TRY(psi_check_count(where, (f64)tokens * used));
  return psi_check_numbers(where, dtype, halves);
}

static PsiLaunch experts(const char* kernel, bool weights) {
  PsiLaunch l = psi_number_kernel("expert_rows", kernel);
  psi_constant_bool(&l, 0, weights);
  return l;
}

static i32 launch_sum(PsiNumbers y, PsiNumbers x, const void* weights, const void* places, i32 tokens, i32 used, i32 width) {
  f64 slots = (f64)tokens * used;
  PsiLaunch l = experts("expert_sum_f32", weights != NULL);
  psi_write_numbers(&l, 0, y, (f64)tokens * width);
  psi_read_numbers(&l, 1, x, slots * width);
  psi_read(&l, 2, weights, weights ? 4 * slots : 0);
  psi_read(&l, 3, places, 4 * slots);
  ExpertRowsParams p = {(u32)slots, (u32)used, (u32)width};
  psi_params(&l, 4, &p, sizeof p);
  i32 threads = psi_row_threads(width);
  return psi_launch(&l, PSI_DIVIDE_UP(width, threads), tokens, 1, threads, 1, 1);
}

PSI_API i32 psi_expert_rows(void* y, const void* x, const void* slots, i32 tokens, i32 used, i32 width, i32 dtype) {
  PSI_TRY(check("psi_expert_rows", tokens, used, width, dtype, 0x3));
  if (tokens == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_expert_rows", y, x, slots));
  f64 count = (f64)tokens * used;
  PsiLaunch l = experts("expert_rows_f32", false);
  psi_write_numbers(&l, 0, psi_numbers(y, dtype, 0), count * width);
  psi_read_numbers(&l, 1, psi_numbers(x, dtype, 1), (f64)tokens * width);
  psi_read(&l, 2, slots, 4 * count);
  ExpertRowsParams p = {(u32)count, (u32)used, (u32)width};
  psi_params(&l, 3, &p, sizeof p);
  i32 threads = psi_row_threads(width);
  return psi_launch(&l, PSI_DIVIDE_UP(width, threads), (i64)count, 1, threads, 1, 1);
}

PSI_API i32 psi_expert_rows_grad(void* dx, const void* dy, const void* places, i32 tokens, i32 used, i32 width, i32 dtype) {
  PSI_TRY(check("psi_expert_rows_grad", tokens, used, width, dtype, 0x3));
  if (tokens == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_expert_rows_grad", dx, dy, places));
  return launch_sum(psi_numbers(dx, dtype, 0), psi_numbers(dy, dtype, 1), NULL, places, tokens, used, width);
}

PSI_API i32 psi_expert_combine(void* y, const void* x, const void* weights, const void* places, i32 tokens, i32 used, i32 width, i32 dtype) {
  PSI_TRY(check("psi_expert_combine", tokens, used, width, dtype, 0x3));
  if (tokens == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_expert_combine", y, x, weights, places));
  return launch_sum(psi_numbers(y, dtype, 0), psi_numbers(x, dtype, 1), weights, places, tokens, used, width);
}

PSI_API i32 psi_expert_combine_grad(void* dx, void* dweights, const void* dy, const void* x, const void* weights, const void* places, i32 tokens, i32 used,
                                    i32 width, i32 dtype) {
  PSI_TRY(check("psi_expert_combine_grad", tokens, used, width, dtype, 0xd));
  if (tokens == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_expert_combine_grad", dx, dweights, dy, x, weights, places));
  f64 slots = (f64)tokens * used;
  PsiLaunch l = experts("expert_combine_grad_f32", true);
  psi_write_numbers(&l, 0, psi_numbers(dx, dtype, 0), slots * width);
  psi_write(&l, 1, dweights, 4 * slots);
  psi_read_numbers(&l, 2, psi_numbers(dy, dtype, 2), (f64)tokens * width);
  psi_read_numbers(&l, 3, psi_numbers(x, dtype, 3), slots * width);
  psi_read(&l, 4, weights, 4 * slots);
  psi_read(&l, 5, places, 4 * slots);
  ExpertRowsParams p = {(u32)slots, (u32)used, (u32)width};
  psi_params(&l, 6, &p, sizeof p);
  return psi_launch(&l, (i64)slots, 1, 1, psi_row_threads(width), 1, 1);
}
