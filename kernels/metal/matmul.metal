/*
 * y[t,n] = sum_k x[t,k] w[n,k] (+ bias[n]): x f32 [rows,columns], w in file layout [outputs,columns], f32 sums, k ascending
 * in steps of 8 by simdgroup_multiply_accumulate, whatever the number of rows. A threadgroup makes 8 rows of 32 outputs:
 * weights of 32 columns are dequantised to threadgroup memory, each of 4 simdgroups multiplies 8 outputs.
 */
#include <metal_stdlib>
#include "matmul.h"
#include "weights.h"
using namespace metal;

constant bool HAS_BIAS [[function_constant(0)]];

template <typename W>
kernel void matmul(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], device const uchar* w [[buffer(2)]],
                   device const float* bias [[buffer(3)]], constant MatmulParams& p [[buffer(4)]], uint2 tile [[threadgroup_position_in_grid]],
                   uint thread_index [[thread_index_in_threadgroup]], uint simd [[simdgroup_index_in_threadgroup]]) {
  threadgroup float weights[MATMUL_OUTPUTS][MATMUL_DEPTH];
  threadgroup float inputs[MATMUL_ROWS][MATMUL_DEPTH];
  const uint first_output = tile.x * MATMUL_OUTPUTS, first_row = tile.y * MATMUL_ROWS;
  simdgroup_float8x8 sums = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
  for (uint k = 0; k < p.columns; k += MATMUL_DEPTH) {
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (thread_index < 2 * MATMUL_OUTPUTS) {
      const uint output = first_output + thread_index / 2, group = k / 16 + thread_index % 2;
      float v[16];
      for (uint i = 0; i < 16; i++) v[i] = 0.0f;
      if (output < p.outputs && 16 * group < p.columns) W::values(w + output * weight_row_bytes<W>(p.columns), group, p.columns, v);
      for (uint i = 0; i < 16; i++) weights[thread_index / 2][thread_index % 2 * 16 + i] = v[i];
    }
    for (uint i = thread_index; i < MATMUL_ROWS * MATMUL_DEPTH; i += MATMUL_THREADS) {
      const uint row = first_row + i / MATMUL_DEPTH, column = k + i % MATMUL_DEPTH;
      inputs[i / MATMUL_DEPTH][i % MATMUL_DEPTH] = row < p.rows && column < p.columns ? x[ulong(row) * p.columns + column] : 0.0f;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint step = 0; step < MATMUL_DEPTH; step += 8) {
      simdgroup_float8x8 a, b;
      simdgroup_load(a, &inputs[0][step], MATMUL_DEPTH);
      simdgroup_load(b, &weights[8 * simd][step], MATMUL_DEPTH, ulong2(0, 0), true);
      simdgroup_multiply_accumulate(sums, a, b, sums);
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  simdgroup_store(sums, &weights[0][8 * simd], MATMUL_OUTPUTS);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (uint i = thread_index; i < MATMUL_ROWS * MATMUL_OUTPUTS; i += MATMUL_THREADS) {
    const uint row = first_row + i / MATMUL_OUTPUTS, output = first_output + i % MATMUL_OUTPUTS;
    if (row >= p.rows || output >= p.outputs) continue;
    const float sum = weights[i / MATMUL_OUTPUTS][i % MATMUL_OUTPUTS];
    y[ulong(row) * p.outputs + output] = HAS_BIAS ? sum + bias[output] : sum;
  }
}
#define MATMUL(name, W)                                                                                                             \
  template [[host_name(PSI_STRING(matmul_##name))]] kernel void matmul<W>(device float*, device const float*, device const uchar*, device const float*, \
                                                                constant MatmulParams&, uint2, uint, uint);
PSI_EACH_WEIGHT(MATMUL)
