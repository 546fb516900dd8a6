/* psi_head_loss, psi_scale_by: see head_loss.metal; logits and gradients are products of gemm.metal. */
#include "head_loss.h"

#include "gemm_launch.h"

PSI_API i32 psi_head_loss(void* loss, void* dx, void* dw, const void* x, const void* w, const void* targets, void* scratch, i32 tokens, i32 width, i32 vocabulary,
                          i32 rows, f64 scale, f64 softcap, f64 scratch_bytes) {
  PSI_TRY(PSI_CHECK_ROWS("psi_head_loss", 0, tokens, width, vocabulary, rows));
  if (!(softcap >= 0)) return psi_fail(PSI_INVALID, "[psi_head_loss] expected a soft-cap of at least 0, got %g.", softcap);
  PSI_TRY(PSI_CHECK_POINTERS("psi_head_loss", loss, dx, dw, x, w, targets));
  const i64 losses = PSI_DIVIDE_UP(tokens, 16) * 64;
  PSI_TRY(psi_check_scratch("psi_head_loss", scratch, scratch_bytes, (f64)losses + 2.0 * rows * (f64)(PSI_DIVIDE_UP(vocabulary, 64) * 64)));
  const PsiNumbers in = {x, true}, out = {dx, true}, head = {w, true}, logits = {(u8*)scratch + losses, true}, gradient = {dw, false};
  /* so many that a product is one command buffer's work: macOS ends one that takes some seconds */
  const f64 fits = PSI_MOST_WORK / ((f64)vocabulary * width);
  const i32 most = fits >= rows ? rows : fits < 32 ? 32 : (i32)fits / 32 * 32, at_once = most < rows ? most : rows;
  f32* row_losses = scratch;
  for (i64 row = 0; row < tokens; row += at_once) {
    const i32 count = tokens - row < at_once ? (i32)(tokens - row) : at_once;
    const PsiNumbers some = psi_numbers_from(in, row * width);
    PsiGemm forward = {.c = logits, .a = some, .b = head, .batch = 1, .m = count, .n = vocabulary, .k = width, .trans_b = true};
    PSI_TRY(psi_gemm_product(&forward));
    PsiLaunch l = psi_number_kernel("head_loss", "head_loss_rows");
    psi_constant_bool(&l, 0, softcap > 0);
    psi_constant_bool(&l, 1, false);
    psi_write(&l, 0, row_losses + row, 4.0 * count);
    psi_write_numbers(&l, 1, logits, (f64)count * vocabulary);
    psi_read(&l, 2, (const i32*)targets + row, 4.0 * count);
    HeadLossParams p = {(u32)vocabulary, (f32)softcap, (f32)scale};
    psi_params(&l, 3, &p, sizeof p);
    PSI_TRY(psi_launch(&l, count, 1, 1, psi_row_threads(vocabulary), 1, 1));
    PsiGemm inputs = {.c = psi_numbers_from(out, row * width), .a = logits, .b = head, .batch = 1, .m = count, .n = width, .k = vocabulary};
    PSI_TRY(psi_gemm_product(&inputs));
    PsiGemm weights = {.c = gradient, .a = logits, .b = some, .batch = 1, .m = vocabulary, .n = width, .k = count, .trans_a = true, .accumulate = row > 0};
    PSI_TRY(psi_gemm_product(&weights));
  }
  return psi_sum(loss, row_losses, PSI_F32, tokens, scale);
}

PSI_API i32 psi_scale_by(void* y, const void* x, const void* factor, i32 add, i32 dtype, f64 count) {
  PSI_TRY(psi_check_count("psi_scale_by", count));
  PSI_TRY(psi_check_numbers("psi_scale_by", dtype, 0x3));
  if (count == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_scale_by", y, x, factor));
  PsiLaunch l = psi_number_kernel("head_loss", "scale_by_f32");
  psi_constant_bool(&l, 0, false);
  psi_constant_bool(&l, 1, add != 0);
  psi_write_numbers(&l, 0, psi_numbers(y, dtype, 0), count);
  psi_read_numbers(&l, 1, psi_numbers(x, dtype, 1), count);
  psi_read(&l, 2, factor, 4);
  ScaleByParams p = {(u32)count};
  psi_params(&l, 3, &p, sizeof p);
  return psi_launch(&l, PSI_DIVIDE_UP(count, 256), 1, 1, 256, 1, 1);
}
