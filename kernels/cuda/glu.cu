/* y = act(gate) * up (glu.cuh), f32: rows of gate and up with strides of their own, y [rows, width]; a thread makes four. */
#include "glu.cuh"

namespace psi {

constexpr int GLU_THREADS = 128;

__global__ void __launch_bounds__(GLU_THREADS) glu_kernel(float* y, const float* gate, const float* up, i32 width, i32 gate_stride, i32 up_stride, i32 kind, float alpha, float limit) {
  let_next_start();
  wait_for_inputs();
  const i32 k = (blockIdx.y * GLU_THREADS + threadIdx.x) * 4;
  const i64 row = blockIdx.x;
  if (k >= width) return;
  gate += row * gate_stride + k;
  up += row * up_stride + k;
  y += row * width + k;
  if (k + 4 <= width && (((uintptr_t)gate | (uintptr_t)up | (uintptr_t)y) & 15) == 0) {
    const float4 g = *(const float4*)gate, u = *(const float4*)up;
    *(float4*)y = make_float4(gated_activation(kind, g.x, u.x, alpha, limit), gated_activation(kind, g.y, u.y, alpha, limit),
                              gated_activation(kind, g.z, u.z, alpha, limit), gated_activation(kind, g.w, u.w, alpha, limit));
  } else {
    for (i32 i = 0; i < min(4, width - k); i++) y[i] = gated_activation(kind, gate[i], up[i], alpha, limit);
  }
}

}  // namespace psi

PSI_API i32 psi_glu(void* y, const void* gate, const void* up, i32 rows, i32 width, i32 gate_stride, i32 up_stride, i32 kind, f32 alpha, f32 limit) {
  using namespace psi;
  if (!y || !gate || !up) return fail(PSI_INVALID, "[psi_glu] expected non-null pointers.");
  if (rows < 0 || width < 1 || gate_stride < width || up_stride < width)
    return fail(PSI_INVALID, "[psi_glu] expected strides of at least the width %d, got %d and %d.", width, gate_stride, up_stride);
  if (kind < 0 || kind > 2) return fail(PSI_INVALID, "[psi_glu] expected kind 0, 1 or 2, got %d.", kind);
  return launch("psi_glu", glu_kernel, dim3((unsigned)rows, (unsigned)PSI_DIVIDE_UP(width, 4 * GLU_THREADS)), dim3(GLU_THREADS), 0, (float*)y,
                (const float*)gate, (const float*)up, width, gate_stride, up_stride, kind, alpha, limit);
}
