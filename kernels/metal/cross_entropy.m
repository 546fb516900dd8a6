/* psi_cross_entropy, psi_cross_entropy_grad: see cross_entropy.metal; logits of a chunk are a product of gemm.metal. */
#include "cross_entropy.h"

#include "gemm_launch.h"

/* Columns of the vocabulary at a time, as the ABI says. */
static i64 chunk_of(i64 tokens, i64 vocabulary) {
  i64 fits = ((i64)1 << 22) / (tokens > 0 ? tokens : 1), chunk = fits > 256 ? fits : 256;
  return chunk < vocabulary ? chunk : vocabulary;
}

static i32 check(const char* where, i32 tokens, i32 width, i32 vocabulary, i32 dtype, u32 halves, f64 softcap) {
  PSI_TRY(PSI_CHECK_ROWS(where, tokens, width, vocabulary));
  PSI_TRY(psi_check_numbers(where, dtype, halves));
  if (!(softcap >= 0)) return psi_fail(PSI_INVALID, "[%s] expected a soft-cap of at least 0, got %g.", where, softcap);
  return PSI_OK;
}

static i32 chunk_logits(f32* logits, PsiNumbers x, PsiNumbers w, const f32* bias, i64 from, i32 count, i32 tokens, i32 width) {
  PsiGemm g = {.c = {logits, false}, .a = x, .b = psi_numbers_from(w, from * width), .bias = bias ? bias + from : NULL, .batch = 1, .m = tokens, .n = count, .k = width, .trans_b = true};
  return psi_gemm_product(&g);
}

PSI_API i32 psi_cross_entropy(void* loss, void* lse, const void* x, const void* w, const void* bias, const void* targets, void* scratch, i32 tokens, i32 width,
                              i32 vocabulary, i32 dtype, f64 softcap, f64 scratch_bytes) {
  PSI_TRY(check("psi_cross_entropy", tokens, width, vocabulary, dtype, 0xc, softcap));
  PSI_TRY(PSI_CHECK_POINTERS("psi_cross_entropy", loss, lse, x, w, targets));
  if (tokens == 0) return PSI_OK;
  i64 chunk = chunk_of(tokens, vocabulary);
  PSI_TRY(psi_check_scratch("psi_cross_entropy", scratch, scratch_bytes, 4.0 * tokens * (f64)(chunk + 3)));
  const PsiNumbers rows = psi_numbers(x, dtype, 2), head = psi_numbers(w, dtype, 3);
  f32 *sums = scratch, *running = sums + 2 * (i64)tokens, *logits = running + tokens;
  for (i64 from = 0; from < vocabulary; from += chunk) {
    i32 count = (i32)(vocabulary - from < chunk ? vocabulary - from : chunk);
    PSI_TRY(chunk_logits(logits, rows, head, bias, from, count, tokens, width));
    PsiLaunch l = psi_kernel("cross_entropy", "cross_entropy_f32");
    psi_constant_bool(&l, 0, softcap > 0);
    psi_write(&l, 0, loss, 4.0 * tokens);
    psi_write(&l, 1, lse, 4.0 * tokens);
    psi_write(&l, 2, running, 4.0 * tokens);
    psi_write(&l, 3, sums, 8.0 * tokens);
    psi_read(&l, 4, logits, 4.0 * tokens * count);
    psi_read(&l, 5, targets, 4.0 * tokens);
    CrossEntropyParams p = {(u32)from, (u32)count, (u32)vocabulary, from == 0, from + count == vocabulary, (f32)softcap};
    psi_params(&l, 6, &p, sizeof p);
    PSI_TRY(psi_launch(&l, tokens, 1, 1, psi_row_threads(chunk), 1, 1));
  }
  return PSI_OK;
}

PSI_API i32 psi_cross_entropy_grad(void* dx, void* dw, void* dbias, const void* dloss, const void* x, const void* w, const void* bias, const void* targets,
                                   const void* lse, void* scratch, i32 tokens, i32 width, i32 vocabulary, i32 dtype, f64 softcap, f64 scratch_bytes) {
  PSI_TRY(check("psi_cross_entropy_grad", tokens, width, vocabulary, dtype, 0x31, softcap));
  PSI_TRY(PSI_CHECK_POINTERS("psi_cross_entropy_grad", dx, dloss, x, w, targets, lse));
  if (tokens == 0) return PSI_OK;
  i64 chunk = chunk_of(tokens, vocabulary);
  PSI_TRY(psi_check_scratch("psi_cross_entropy_grad", scratch, scratch_bytes, 4.0 * tokens * (f64)chunk));
  const PsiNumbers rows = psi_numbers(x, dtype, 4), head = psi_numbers(w, dtype, 5);
  f32* logits = scratch;
  for (i64 from = 0; from < vocabulary; from += chunk) {
    i32 count = (i32)(vocabulary - from < chunk ? vocabulary - from : chunk), threads = psi_row_threads(count);
    PSI_TRY(chunk_logits(logits, rows, head, bias, from, count, tokens, width));
    PsiLaunch l = psi_kernel("cross_entropy", "cross_entropy_grad_f32");
    psi_constant_bool(&l, 0, softcap > 0);
    psi_write(&l, 0, logits, 4.0 * tokens * count);
    psi_read(&l, 1, lse, 4.0 * tokens);
    psi_read(&l, 2, dloss, 4.0 * tokens);
    psi_read(&l, 3, targets, 4.0 * tokens);
    CrossEntropyParams p = {(u32)from, (u32)count, (u32)vocabulary, from == 0, from + count == vocabulary, (f32)softcap};
    psi_params(&l, 4, &p, sizeof p);
    PSI_TRY(psi_launch(&l, PSI_DIVIDE_UP(count, threads), tokens, 1, threads, 1, 1));
    PsiGemm inputs = {.c = psi_numbers(dx, dtype, 0), .a = {logits, false}, .b = psi_numbers_from(head, from * width), .batch = 1, .m = tokens, .n = width, .k = count, .accumulate = from > 0};
    PSI_TRY(psi_gemm_product(&inputs));
    if (dw) {
      PsiGemm weights = {.c = {(f32*)dw + from * width, false}, .a = {logits, false}, .b = rows, .batch = 1, .m = count, .n = width, .k = tokens, .trans_a = true, .accumulate = true};
      PSI_TRY(psi_gemm_product(&weights));
    }
    if (dbias) PSI_TRY(psi_column_sum((f32*)dbias + from, logits, NULL, tokens, count, 1, PSI_F32));
  }
  return PSI_OK;
}
