/* psi_lookup, psi_lookup_grad: see lookup.metal. */
#include "lookup.h"

#include "train.h"

static i32 check(const char* where, const void* y, const void* table, const void* ids, i32 tokens, i32 width, i32 vocabulary, i32 dtype, u32 halves) {
  PSI_TRY(PSI_CHECK_ROWS(where, tokens, width, vocabulary));
  PSI_TRY(psi_check_numbers(where, dtype, halves));
  return psi_check_pointers(where, (const void* const[]){y, table, ids}, 3);
}

PSI_API i32 psi_lookup(void* y, const void* table, const void* ids, i32 tokens, i32 width, i32 vocabulary, i32 dtype) {
  PSI_TRY(check("psi_lookup", y, table, ids, tokens, width, vocabulary, dtype, 0x3));
  if (tokens == 0) return PSI_OK;
  PsiLaunch l = psi_number_kernel("lookup", "lookup_f32");
  psi_write_numbers(&l, 0, psi_numbers(y, dtype, 0), (f64)tokens * width);
  psi_read_numbers(&l, 1, psi_numbers(table, dtype, 1), (f64)vocabulary * width);
  psi_read(&l, 2, ids, 4.0 * tokens);
  LookupParams p = {(u32)tokens, (u32)width, (u32)vocabulary};
  psi_params(&l, 3, &p, sizeof p);
  i32 threads = psi_row_threads(width);
  return psi_launch(&l, PSI_DIVIDE_UP(width, threads), tokens, 1, threads, 1, 1);
}

PSI_API i32 psi_lookup_grad(void* dtable, const void* dy, const void* ids, i32 tokens, i32 width, i32 vocabulary, i32 dtype) {
  PSI_TRY(check("psi_lookup_grad", dtable, dy, ids, tokens, width, vocabulary, dtype, 0x2));
  if (tokens == 0) return PSI_OK;
  PsiLaunch l = psi_number_kernel("lookup", "lookup_grad_f32");
  psi_write(&l, 0, dtable, 4.0 * vocabulary * width);
  psi_read_numbers(&l, 1, psi_numbers(dy, dtype, 1), (f64)tokens * width);
  psi_read(&l, 2, ids, 4.0 * tokens);
  LookupParams p = {(u32)tokens, (u32)width, (u32)vocabulary};
  psi_params(&l, 3, &p, sizeof p);
  return psi_launch(&l, tokens, 1, 1, psi_row_threads(width), 1, 1);
}
