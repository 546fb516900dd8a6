/* psi_block_round: see block_round.metal. */
#include "block_round.h"

#include "train.h"

PSI_API i32 psi_block_round(void* y, const void* x, i32 format, i32 to, f64 count) {
  PSI_TRY(psi_check_count("psi_block_round", count));
  if ((format != PSI_MXFP4 && format != PSI_Q8_0) || (to != PSI_F32 && to != PSI_BF16) || (i64)count % 32 != 0)
    return psi_fail(PSI_INVALID, "[psi_block_round] expected MXFP4 or Q8_0 to f32 or bf16, and whole blocks of 32, got types %d and %d, count %.0f.", format, to, count);
  PSI_TRY(PSI_CHECK_POINTERS("psi_block_round", y, x));
  if (count == 0) return PSI_OK;
  PsiLaunch l = psi_number_kernel("block_round", format == PSI_MXFP4 ? "block_round_mxfp4" : "block_round_q8_0");
  psi_write_numbers(&l, 0, (PsiNumbers){y, to == PSI_BF16}, count);
  psi_read(&l, 1, x, 4 * count);
  BlockRoundParams p = {(u32)count};
  psi_params(&l, 2, &p, sizeof p);
  return psi_launch(&l, PSI_DIVIDE_UP(count, 256), 1, 1, 256, 1, 1);
}
