/*
 * y = x / sqrt(mean(x^2) + eps) * w * silu(gate) over heads; layouts in ffi/psionic.h. A warp per head: lane l sums every
 * 32nd element from l on, then a tree over the lanes, in one order for any number of rows.
 */
#include "glu.cuh"
#include "instructions.h"

namespace psi {

constexpr int NORM_GATED_KEPT = 8; /* elements a lane keeps in registers: heads of up to 256 are read once */

struct NormGatedArguments {
  float* y;
  const float *x, *gate, *w; /* gate: of row 0, head 0 */
  i64 count, gate_stride;    /* heads in all */
  i32 heads, width;
  float eps;
};

__global__ void __launch_bounds__(128) rms_norm_gated_kernel(const __grid_constant__ NormGatedArguments p) {
  let_next_start();
  const int lane = threadIdx.x % 32;
  const i64 task = (i64)blockIdx.x * 4 + threadIdx.x / 32;
  float w[NORM_GATED_KEPT], x[NORM_GATED_KEPT], gate[NORM_GATED_KEPT];
#pragma unroll
  for (int i = 0; i < NORM_GATED_KEPT; i++) w[i] = lane + 32 * i < p.width ? p.w[lane + 32 * i] : 0.0f;
  wait_for_inputs();
  if (task >= p.count) return;
  const float* in = p.x + task * p.width;
  const float* by = p.gate + task / p.heads * p.gate_stride + task % p.heads * p.width;
  float* out = p.y + task * p.width;
  float squares = 0;
#pragma unroll
  for (int i = 0; i < NORM_GATED_KEPT; i++) {
    const bool there = lane + 32 * i < p.width;
    x[i] = there ? in[lane + 32 * i] : 0.0f;
    gate[i] = there ? by[lane + 32 * i] : 0.0f;
    squares = __fmaf_rn(x[i], x[i], squares);
  }
  for (i32 k = lane + 32 * NORM_GATED_KEPT; k < p.width; k += 32) squares = __fmaf_rn(in[k], in[k], squares);
  const float scale = 1.0f / sqrtf(__fadd_rn(warp_sum(squares) / (float)p.width, p.eps));
#pragma unroll
  for (int i = 0; i < NORM_GATED_KEPT; i++)
    if (lane + 32 * i < p.width) out[lane + 32 * i] = gated_activation(0, gate[i], __fmul_rn(__fmul_rn(x[i], scale), w[i]), 0, 0);
  for (i32 k = lane + 32 * NORM_GATED_KEPT; k < p.width; k += 32)
    out[k] = gated_activation(0, by[k], __fmul_rn(__fmul_rn(in[k], scale), p.w[k]), 0, 0);
}

}  // namespace psi

PSI_API i32 psi_rms_norm_gated(void* y, const void* x, const void* gate, const void* w, i32 rows, i32 heads, i32 width, i32 gate_stride, i32 gate_offset, f32 eps) {
  using namespace psi;
  if (!y || !x || !gate || !w) return fail(PSI_INVALID, "[psi_rms_norm_gated] expected non-null pointers.");
  if (rows < 0 || heads < 1 || width < 1 || gate_offset < 0 || gate_offset + (i64)heads * width > gate_stride)
    return fail(PSI_INVALID, "[psi_rms_norm_gated] expected the gate inside its rows, got rows %d, heads %d, width %d, stride %d, offset %d.", rows, heads, width, gate_stride, gate_offset);
  const NormGatedArguments p = {(float*)y, (const float*)x, (const float*)gate + gate_offset, (const float*)w, (i64)rows * heads, gate_stride, heads, width, eps};
  if (p.count > (i64)INT32_MAX) return fail(PSI_UNSUPPORTED, "[psi_rms_norm_gated] expected at most 2^31 heads, got %lld.", (long long)p.count);
  return launch("psi_rms_norm_gated", rms_norm_gated_kernel, dim3((u32)PSI_DIVIDE_UP(p.count, 4)), dim3(128), 0, p);
}
