/*
 * Products with the chosen experts' F32 matrices, rows one after the other: a warp makes one value of y, each lane sums
 * every 32nd column by fused multiply-add, then the lanes' sums are added in warp_sum's tree. x is not rounded. For small
 * models: every slot reads its matrix anew.
 */
#pragma once
#include "moe_launch.cuh"

namespace psi {

constexpr int MOE_FLOAT_WARPS = 8;

__device__ __forceinline__ float moe_float_dot(const float* x, const float* w, i32 columns, i32 lane) {
  float sum = 0.0f;
#pragma unroll 4
  for (i32 k = lane; k < columns; k += 32) sum = __fmaf_rn(x[k], w[k], sum);
  return warp_sum(sum);
}

template <bool GATED>
__global__ void __launch_bounds__(32 * MOE_FLOAT_WARPS) moe_float_kernel(const __grid_constant__ MoeArguments p, i64 matrix_bytes, i32 blocks_per_slot) {
  let_next_start();
  wait_for_inputs();
  const i32 lane = threadIdx.x % 32, width = GATED ? p.outputs / 2 : p.outputs;
  const i64 slot = blockIdx.x / blocks_per_slot;
  const i32 output = (i32)(blockIdx.x % blocks_per_slot) * MOE_FLOAT_WARPS + threadIdx.x / 32, expert = p.expert_ids[slot];
  if (output >= width || (u32)expert >= (u32)p.experts) return;
  const float* x = p.x + slot / p.slots_per_input * p.columns;
  float v[2] = {};
#pragma unroll
  for (int m = 0; m < (GATED ? 2 : 1); m++) {
    const i64 row = output + m * width;
    v[m] = moe_float_dot(x, (const float*)(p.w + expert * matrix_bytes) + row * p.columns, p.columns, lane);
    if (p.bias) v[m] += p.bias[(i64)expert * p.outputs + row];
  }
  if (GATED) v[0] = gated_activation(p.gate.kind, v[0], v[1], p.gate.alpha, p.gate.limit);
  if (lane == 0) p.y[slot * width + output] = v[0];
}

template <bool GATED>
i32 moe_float_product(const char* op, const MoeArguments& p) {
  const i64 per_slot = PSI_DIVIDE_UP((i64)(GATED ? p.outputs / 2 : p.outputs), MOE_FLOAT_WARPS), blocks = per_slot * p.slots;
  if (blocks > INT32_MAX) return fail(PSI_INVALID, "[%s] expected at most 2^31 pieces of rows, got %d slots of %d.", op, p.slots, p.outputs);
  return launch(op, moe_float_kernel<GATED>, dim3((unsigned)blocks), dim3(32 * MOE_FLOAT_WARPS), 0, p, aligned64((i64)p.outputs * p.columns * 4), (i32)per_slot);
}

}  // namespace psi
