/* psi_rotate: see rotate.metal. */
#include "rotate.h"

#include "train.h"

PSI_API i32 psi_rotate(void* y, const void* x, const void* positions, const void* inv_freq, i32 rows, i32 heads, i32 head_dim, i32 rotary_dims, i32 neox,
                       i32 inverse, i32 dtype, f32 mscale) {
  PSI_TRY(PSI_CHECK_ROWS("psi_rotate", rows, heads, head_dim));
  PSI_TRY(psi_check_numbers("psi_rotate", dtype, 0x3));
  if (rotary_dims < 0 || rotary_dims % 2 || rotary_dims > head_dim)
    return psi_fail(PSI_INVALID, "[psi_rotate] expected an even rotary part of heads of %d, got %d.", head_dim, rotary_dims);
  if (rows == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_rotate", y, x, positions, inv_freq));
  if (y == x) return psi_fail(PSI_INVALID, "[psi_rotate] expected a result beside x, got x itself.");
  f64 all = (f64)rows * heads * head_dim;
  PsiLaunch l = psi_number_kernel("rotate", "rotate_f32");
  psi_write_numbers(&l, 0, psi_numbers(y, dtype, 0), all);
  psi_read_numbers(&l, 1, psi_numbers(x, dtype, 1), all);
  psi_read(&l, 2, positions, 4.0 * rows);
  psi_read(&l, 3, rotary_dims ? inv_freq : NULL, 2.0 * rotary_dims);
  RotateParams p = {(u32)rows, (u32)heads, (u32)head_dim, (u32)rotary_dims, neox != 0, mscale, inverse ? -1.0f : 1.0f};
  psi_params(&l, 4, &p, sizeof p);
  i32 wide = head_dim - rotary_dims / 2, threads = psi_row_threads(wide);
  return psi_launch(&l, PSI_DIVIDE_UP(wide, threads), rows, 1, threads, 1, 1);
}
