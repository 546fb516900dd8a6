/*
 * y[s,n] = x[row(s)] . w[e(s)][n] (+ bias[e(s),n]) for slots s = token*used + j, row(s) = s if x_per_slot, else token; w: experts' matrices
 * [outputs,columns] in file layout one after the other. A slot of no expert gives NaN. A simdgroup has an output of a slot: a lane's
 * columns are its groups of 16 lane, lane + 32, ..., ascending in f32, the lanes' sums by simd_sum; so a slot's bits depend on nothing else.
 */
#include <metal_stdlib>
#include "moe_matmul.h"
#include "weights.h"
using namespace metal;

constant bool HAS_BIAS [[function_constant(0)]];

template <typename W>
kernel void moe_matmul(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], device const uchar* w [[buffer(2)]],
                       device const float* bias [[buffer(3)]], device const int* expert_ids [[buffer(4)]], constant MoeMatmulParams& p [[buffer(5)]],
                       uint2 at [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]],
                       uint simd [[simdgroup_index_in_threadgroup]]) {
  const uint output = at.x * (MOE_THREADS / 32) + simd, slot = at.y, columns = uint(p.columns), outputs = uint(p.outputs);
  if (output >= outputs) return;
  const int expert = expert_ids[slot];
  const bool there = expert >= 0 && expert < p.experts;
  const ulong row = ulong(max(expert, 0)) * outputs + output;
  device const float* in = x + ulong(p.x_per_slot != 0 ? slot : slot / uint(p.used)) * columns;
  float sum = 0.0f;
  for (uint group = lane; there && 16 * group < columns; group += 32) {
    float v[16];
    W::values(w + row * weight_row_bytes<W>(columns), group, columns, v);
    const uint count = min(16u, columns - 16 * group);
    for (uint i = 0; i < count; i++) sum = fma(v[i], in[16 * group + i], sum);
  }
  sum = simd_sum(sum);
  if (lane == 0) y[ulong(slot) * outputs + output] = !there ? NAN : HAS_BIAS ? sum + bias[row] : sum;
}
#define MOE_MATMUL(name, W)                                                                                                                     \
  template [[host_name(PSI_STRING(moe_matmul_##name))]] kernel void moe_matmul<W>(device float*, device const float*, device const uchar*,       \
                                                                                  device const float*, device const int*, constant MoeMatmulParams&, \
                                                                                  uint2, uint, uint);
PSI_EACH_WEIGHT(MOE_MATMUL)
