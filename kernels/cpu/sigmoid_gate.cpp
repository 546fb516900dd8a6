/*
 * y = x * sigmoid(gate): x, y f32 [rows, heads*width]; the gate of head h of a row at gate_offset + h*head_stride in rows
 * of gate_stride. y may be x. Tasks: rows.
 */
#include <math.h>

#include "../common/pool.h"
#include "../common/simd.h"

PSI_KERNEL(sigmoid_gate, float* y, const float* x, const float* gate, i64 rows, i64 heads, i64 width, i64 gate_stride, i64 gate_offset, i64 head_stride)

namespace psi::PSI_ISA {

void sigmoid_gate(float* y, const float* x, const float* gate, i64 rows, i64 heads, i64 width, i64 gate_stride, i64 gate_offset, i64 head_stride) {
  parallel(rows, [&](i64 r, int) {
    for (i64 h = 0; h < heads; h++) {
      const i64 at = (r * heads + h) * width;
      const float* by = gate + r * gate_stride + gate_offset + h * head_stride;
      for (i64 k = 0; k < width; k += 16) {
        const int m = (int)(width - k < 16 ? width - k : 16);
        store_n(y + at + k, load_n(x + at + k, m) / (set1(1.0f) + exp(zero() - load_n(by + k, m))), m);
      }
    }
  });
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
static i32 check_sigmoid_gate(const char* where, const void* y, const void* x, const void* gate, i32 rows, i32 heads, i32 width, i32 gate_stride, i32 gate_offset, i32 head_stride) {
  if (!y || !x || !gate) return psi::fail(PSI_INVALID, "[%s] expected non-null pointers.", where);
  if (rows < 0 || heads < 1 || width < 1 || gate_offset < 0 || head_stride < width || gate_offset + (heads - 1) * (i64)head_stride + width > gate_stride)
    return psi::fail(PSI_INVALID, "[%s] expected %d gates of %d, %d apart from %d, inside rows of %d; rows %d.", where, heads, width, head_stride, gate_offset, gate_stride, rows);
  return PSI_OK;
}

PSI_API i32 psi_sigmoid_gate(void* y, const void* x, const void* gate, i32 rows, i32 heads, i32 width, i32 gate_stride, i32 gate_offset, i32 head_stride) {
  PSI_OPENED("psi_sigmoid_gate");
  i32 status = check_sigmoid_gate("psi_sigmoid_gate", y, x, gate, rows, heads, width, gate_stride, gate_offset, head_stride);
  if (status != PSI_OK) return status;
  PSI_RUN(sigmoid_gate)((float*)y, (const float*)x, (const float*)gate, rows, heads, width, gate_stride, gate_offset, head_stride);
  return PSI_OK;
}

PSI_API i32 psi_sigmoid_gate_ref(void* y, const void* x, const void* gate, i32 rows, i32 heads, i32 width, i32 gate_stride, i32 gate_offset, i32 head_stride) {
  i32 status = check_sigmoid_gate("psi_sigmoid_gate_ref", y, x, gate, rows, heads, width, gate_stride, gate_offset, head_stride);
  if (status != PSI_OK) return status;
  for (i64 r = 0; r < rows; r++)
    for (i64 h = 0; h < heads; h++)
      for (i64 k = 0; k < width; k++) {
        const i64 at = (r * heads + h) * width + k;
        ((float*)y)[at] = (float)(((const float*)x)[at] / (1 + exp(-(double)((const float*)gate)[r * gate_stride + gate_offset + h * head_stride + k])));
      }
  return PSI_OK;
}
#endif
