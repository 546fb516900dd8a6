/*
 * y[t] = base[t] + sigmoid(gate[t]) * x[t]: base, x, y f32 [rows, width], gate f32 [rows]; y may be base or x. A thread
 * makes V neighbouring elements of a row: 4 where all is aligned, else one.
 */
#include "glu.cuh"

namespace psi {

constexpr int ADD_GATED_THREADS = 128;

template <int V>
__global__ void __launch_bounds__(ADD_GATED_THREADS) add_gated_kernel(float* y, const float* base, const float* x, const float* gate, i32 width, i32 pieces) {
  let_next_start();
  wait_for_inputs();
  const i64 row = blockIdx.x / pieces;
  const i32 k = ((blockIdx.x % pieces) * ADD_GATED_THREADS + threadIdx.x) * V;
  if (k >= width) return;
  const i64 at = row * width + k;
  const float factor = gate_sigmoid(gate[row]);
  if constexpr (V == 4) {
    const float4 a = *(const float4*)(base + at), b = *(const float4*)(x + at);
    *(float4*)(y + at) = make_float4(__fmaf_rn(factor, b.x, a.x), __fmaf_rn(factor, b.y, a.y), __fmaf_rn(factor, b.z, a.z), __fmaf_rn(factor, b.w, a.w));
  } else {
    y[at] = __fmaf_rn(factor, x[at], base[at]);
  }
}

}  // namespace psi

PSI_API i32 psi_add_gated(void* y, const void* base, const void* x, const void* gate, i32 rows, i32 width) {
  using namespace psi;
  if (!y || !base || !x || !gate) return fail(PSI_INVALID, "[psi_add_gated] expected non-null pointers.");
  if (rows < 0 || width < 1) return fail(PSI_INVALID, "[psi_add_gated] expected rows and a width, got %d and %d.", rows, width);
  const bool by_four = (width % 4 | ((uintptr_t)y | (uintptr_t)base | (uintptr_t)x) % 16) == 0;
  const i64 pieces = PSI_DIVIDE_UP((i64)width, ADD_GATED_THREADS * (by_four ? 4 : 1)), blocks = rows * pieces;
  if (blocks > INT32_MAX) return fail(PSI_UNSUPPORTED, "[psi_add_gated] expected at most 2^31 pieces of rows, got %d rows of %d.", rows, width);
  return launch("psi_add_gated", by_four ? add_gated_kernel<4> : add_gated_kernel<1>, dim3((u32)blocks), dim3(ADD_GATED_THREADS), 0, (float*)y,
                (const float*)base, (const float*)x, (const float*)gate, width, (i32)pieces);
}
