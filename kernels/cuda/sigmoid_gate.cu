/*
 * y = x * sigmoid(gate): x, y f32 [rows, heads*width]; the gate of head h of a row at gate_offset + h*head_stride in rows
 * of gate_stride. y may be x. A thread makes V neighbouring elements of a head: 4 where all is aligned, else one.
 */
#include "glu.cuh"

namespace psi {

constexpr int SIGMOID_THREADS = 128;

template <int V>
__global__ void __launch_bounds__(SIGMOID_THREADS) sigmoid_gate_kernel(float* y, const float* x, const float* gate, i32 row_width, i32 width, i64 gate_stride, i32 head_stride, i32 pieces) {
  let_next_start();
  wait_for_inputs();
  const i64 row = blockIdx.x / pieces;
  const i32 k = ((blockIdx.x % pieces) * SIGMOID_THREADS + threadIdx.x) * V;
  if (k >= row_width) return;
  x += row * row_width + k;
  y += row * row_width + k;
  gate += row * gate_stride + (i64)(k / width) * head_stride + k % width;
  if constexpr (V == 4) {
    const float4 a = *(const float4*)x, g = *(const float4*)gate;
    *(float4*)y = make_float4(__fmul_rn(a.x, gate_sigmoid(g.x)), __fmul_rn(a.y, gate_sigmoid(g.y)), __fmul_rn(a.z, gate_sigmoid(g.z)), __fmul_rn(a.w, gate_sigmoid(g.w)));
  } else {
    *y = __fmul_rn(*x, gate_sigmoid(*gate));
  }
}

}  // namespace psi

PSI_API i32 psi_sigmoid_gate(void* y, const void* x, const void* gate, i32 rows, i32 heads, i32 width, i32 gate_stride, i32 gate_offset, i32 head_stride) {
  using namespace psi;
  if (!y || !x || !gate) return fail(PSI_INVALID, "[psi_sigmoid_gate] expected non-null pointers.");
  if (rows < 0 || heads < 1 || width < 1 || gate_offset < 0 || head_stride < width || gate_offset + (heads - 1) * (i64)head_stride + width > gate_stride)
    return fail(PSI_INVALID, "[psi_sigmoid_gate] expected %d gates of %d, %d apart from %d, inside rows of %d; rows %d.", heads, width, head_stride, gate_offset, gate_stride, rows);
  const bool by_four = ((width | gate_stride | gate_offset | head_stride) % 4 | ((uintptr_t)y | (uintptr_t)x | (uintptr_t)gate) % 16) == 0;
  const i64 row_width = (i64)heads * width, pieces = PSI_DIVIDE_UP(row_width, SIGMOID_THREADS * (by_four ? 4 : 1)), blocks = rows * pieces;
  if (blocks > INT32_MAX) return fail(PSI_UNSUPPORTED, "[psi_sigmoid_gate] expected at most 2^31 pieces of rows, got %d rows of %lld.", rows, (long long)row_width);
  return launch("psi_sigmoid_gate", by_four ? sigmoid_gate_kernel<4> : sigmoid_gate_kernel<1>, dim3((u32)blocks), dim3(SIGMOID_THREADS), 0, (float*)y,
                (const float*)x, (const float*)gate + gate_offset, (i32)row_width, width, gate_stride, head_stride, (i32)pieces);
}
