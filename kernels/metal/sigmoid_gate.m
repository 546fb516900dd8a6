/* psi_sigmoid_gate: see sigmoid_gate.metal. */
#include "sigmoid_gate.h"

#include "launch.h"

PSI_API i32 psi_sigmoid_gate(void* y, const void* x, const void* gate, i32 rows, i32 heads, i32 width, i32 gate_stride, i32 gate_offset, i32 head_stride) {
  if (rows < 0 || heads < 1 || width < 1 || gate_offset < 0 || head_stride < width || gate_offset + (heads - 1) * (i64)head_stride + width > gate_stride)
    return psi_fail(PSI_INVALID, "[psi_sigmoid_gate] expected %d gates of %d, %d apart from %d, inside rows of %d; rows %d.", heads, width, head_stride, gate_offset,
                    gate_stride, rows);
  if (rows == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_sigmoid_gate", y, x, gate));
  const f64 all = 4.0 * rows * heads * width;
  PsiLaunch l = psi_kernel("sigmoid_gate", "sigmoid_gate_f32");
  psi_write(&l, 0, y, all);
  psi_read(&l, 1, x, all);
  psi_read(&l, 2, gate, 4.0 * rows * gate_stride);
  SigmoidGateParams p = {(u32)heads * (u32)width, (u32)width, gate_stride, gate_offset, head_stride};
  psi_params(&l, 3, &p, sizeof p);
  return psi_launch(&l, PSI_DIVIDE_UP(p.row_width, 128), rows, 1, 128, 1, 1);
}
