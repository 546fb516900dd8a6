/* y = act(gate) * up (glu.cuh), f32: rows of gate and up with strides of their own, y [rows, width]. */
#include "glu.cuh"

namespace psi {

__global__ void glu_kernel(float* y, const float* gate, const float* up, i32 width, i32 gate_stride, i32 up_stride, i32 kind, float alpha, float limit) {
  let_next_start();
  wait_for_inputs();
  const i32 k = blockIdx.y * blockDim.x + threadIdx.x;
  const i64 row = blockIdx.x;
  if (k < width) y[row * width + k] = gated_activation(kind, gate[row * gate_stride + k], up[row * up_stride + k], alpha, limit);
}

}  // namespace psi

PSI_API i32 psi_glu(void* y, const void* gate, const void* up, i32 rows, i32 width, i32 gate_stride, i32 up_stride, i32 kind, f32 alpha, f32 limit) {
  using namespace psi;
  if (!y || !gate || !up) return fail(PSI_INVALID, "[psi_glu] expected non-null pointers.");
  if (rows < 0 || width < 1 || gate_stride < width || up_stride < width)
    return fail(PSI_INVALID, "[psi_glu] expected strides of at least the width %d, got %d and %d.", width, gate_stride, up_stride);
  if (kind < 0 || kind > 2) return fail(PSI_INVALID, "[psi_glu] expected kind 0, 1 or 2, got %d.", kind);
  return launch("psi_glu", glu_kernel, dim3((unsigned)rows, (unsigned)PSI_DIVIDE_UP(width, 256)), dim3(256), 0, (float*)y, (const float*)gate,
                (const float*)up, width, gate_stride, up_stride, kind, alpha, limit);
}
