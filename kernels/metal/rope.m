/* psi_rope: see rope.metal. */
#include "rope.h"

#include "launch.h"

PSI_API i32 psi_rope(void* x, const void* positions, const void* inv_freq, i32 rows, i32 stride, i32 offset, i32 heads, i32 head_dim, i32 rotary_dims, i32 neox, f32 mscale) {
  if (rows < 0 || heads < 1 || head_dim < 2 || offset < 0 || (i64)offset + (i64)heads * head_dim > stride)
    return psi_fail(PSI_INVALID, "[psi_rope] expected heads inside the rows, got stride %d, offset %d, heads %d, head_dim %d.", stride, offset, heads, head_dim);
  if (rotary_dims < 2 || rotary_dims % 2 || rotary_dims > head_dim)
    return psi_fail(PSI_INVALID, "[psi_rope] expected an even number of rotary dimensions up to %d, got %d.", head_dim, rotary_dims);
  if (rows == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_rope", x, positions, inv_freq));
  PsiLaunch l = psi_kernel("rope", "rope_f32");
  psi_write(&l, 0, x, 4.0 * rows * stride);
  psi_read(&l, 1, positions, 4.0 * rows);
  psi_read(&l, 2, inv_freq, 2.0 * rotary_dims);
  RopeParams p = {stride, offset, head_dim, rotary_dims / 2, neox, mscale};
  psi_params(&l, 3, &p, sizeof p);
  return psi_launch(&l, PSI_DIVIDE_UP(p.pairs, 32), heads, rows, 32, 1, 1);
}
