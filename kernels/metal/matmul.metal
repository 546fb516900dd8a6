/*
 * y[t,n] = sum_k x[t,k] w[n,k] (+ bias[n]): x f32 [rows,columns], w in file layout [outputs,columns], f32. Columns are cut into
 * splits of 512: a split's sum begins at zero and takes k ascending in steps of 8 by simdgroup_multiply_accumulate; the splits are
 * added in order. Both kernels do exactly that, so a row's bits do not depend on how many rows there are.
 *
 * matmul, many rows: a threadgroup makes 32 rows of 64 outputs; weights of 32 columns are dequantised to threadgroup memory once for all
 * rows, each of 4 simdgroups multiplies 16 outputs with them.
 * matvec, up to 8 rows: a threadgroup makes 8 outputs; its 4 simdgroups take splits s, s + 4, ... each for itself, and leave the splits'
 * sums in threadgroup memory, where they are added.
 */
#include <metal_stdlib>
#include "matmul.h"
#include "product.h"
using namespace metal;

constant bool HAS_BIAS [[function_constant(0)]];

template <typename W>
kernel void matmul(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], device const uchar* w [[buffer(2)]],
                   device const float* bias [[buffer(3)]], constant MatmulParams& p [[buffer(4)]], uint2 tile [[threadgroup_position_in_grid]],
                   uint thread_index [[thread_index_in_threadgroup]], uint simd [[simdgroup_index_in_threadgroup]]) {
  threadgroup float weights[MATMUL_OUTPUTS][MATMUL_DEPTH];
  threadgroup float inputs[MATMUL_ROWS][MATMUL_DEPTH];
  const uint first_output = tile.x * MATMUL_OUTPUTS, first_row = tile.y * MATMUL_ROWS;
  simdgroup_float8x8 totals[4][2], sums[4][2];
  for (uint r = 0; r < 4; r++)
    for (uint o = 0; o < 2; o++) totals[r][o] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
  for (uint split = 0; split < p.columns; split += MATMUL_SPLIT) {
    for (uint r = 0; r < 4; r++)
      for (uint o = 0; o < 2; o++) sums[r][o] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    const uint end = min(split + MATMUL_SPLIT, p.columns);
    for (uint k = split; k < end; k += MATMUL_DEPTH) {
      threadgroup_barrier(mem_flags::mem_threadgroup);
      place_weights<W>(&weights[thread_index / 2][thread_index % 2 * 16], w, first_output + thread_index / 2, p.outputs, k / 16 + thread_index % 2, p.columns);
      for (uint i = thread_index; i < MATMUL_ROWS * MATMUL_DEPTH; i += MATMUL_THREADS) {
        const uint row = first_row + i / MATMUL_DEPTH, column = k + i % MATMUL_DEPTH;
        inputs[i / MATMUL_DEPTH][i % MATMUL_DEPTH] = row < p.rows && column < p.columns ? x[ulong(row) * p.columns + column] : 0.0f;
      }
      threadgroup_barrier(mem_flags::mem_threadgroup);
      for (uint step = 0; step < MATMUL_DEPTH; step += 8) {
        simdgroup_float8x8 a, b[2];
        for (uint o = 0; o < 2; o++) simdgroup_load(b[o], &weights[16 * simd + 8 * o][step], MATMUL_DEPTH, ulong2(0, 0), true);
        for (uint r = 0; r < 4; r++) {
          simdgroup_load(a, &inputs[8 * r][step], MATMUL_DEPTH);
          for (uint o = 0; o < 2; o++) simdgroup_multiply_accumulate(sums[r][o], a, b[o], sums[r][o]);
        }
      }
    }
    for (uint r = 0; r < 4; r++)
      for (uint o = 0; o < 2; o++)
        for (uint e = 0; e < 2; e++) totals[r][o].thread_elements()[e] += sums[r][o].thread_elements()[e];
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  /* [MATMUL_ROWS][MATMUL_OUTPUTS] in the weights' place */
  for (uint r = 0; r < 4; r++)
    for (uint o = 0; o < 2; o++) simdgroup_store(totals[r][o], &weights[0][0] + 8 * r * MATMUL_OUTPUTS + 16 * simd + 8 * o, MATMUL_OUTPUTS);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (uint i = thread_index; i < MATMUL_ROWS * MATMUL_OUTPUTS; i += MATMUL_THREADS) {
    const uint row = first_row + i / MATMUL_OUTPUTS, output = first_output + i % MATMUL_OUTPUTS;
    if (row >= p.rows || output >= p.outputs) continue;
    const float sum = (&weights[0][0])[i];
    y[ulong(row) * p.outputs + output] = HAS_BIAS ? sum + bias[output] : sum;
  }
}

template <typename W>
kernel void matvec(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], device const uchar* w [[buffer(2)]],
                   device const float* bias [[buffer(3)]], constant MatmulParams& p [[buffer(4)]], threadgroup float* parts [[threadgroup(0)]],
                   uint tile [[threadgroup_position_in_grid]],
                   uint thread_index [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],
                   uint simd [[simdgroup_index_in_threadgroup]]) {
  threadgroup float weights[MATVEC_SIMDS][MATVEC_OUTPUTS][MATVEC_DEPTH];
  threadgroup float inputs[MATVEC_SIMDS][MATVEC_ROWS][MATVEC_DEPTH];
  const uint first_output = tile * MATVEC_OUTPUTS, splits = (p.columns + MATMUL_SPLIT - 1) / MATMUL_SPLIT;
  /* rows past the last stay zeros */
  for (uint i = lane; i < MATVEC_ROWS * MATVEC_DEPTH; i += 32) inputs[simd][i / MATVEC_DEPTH][i % MATVEC_DEPTH] = 0.0f;
  for (uint s = simd; s < splits; s += MATVEC_SIMDS) {
    simdgroup_float8x8 sums = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    const uint end = min((s + 1) * MATMUL_SPLIT, p.columns);
    for (uint k = s * MATMUL_SPLIT; k < end; k += MATVEC_DEPTH) {
      simdgroup_barrier(mem_flags::mem_threadgroup);
      place_weights<W>(&weights[simd][lane / 4][lane % 4 * 16], w, first_output + lane / 4, p.outputs, k / 16 + lane % 4, p.columns);
      for (uint i = lane; i < p.rows * MATVEC_DEPTH; i += 32) {
        const uint row = i / MATVEC_DEPTH, column = k + i % MATVEC_DEPTH;
        inputs[simd][row][i % MATVEC_DEPTH] = column < p.columns ? x[ulong(row) * p.columns + column] : 0.0f;
      }
      simdgroup_barrier(mem_flags::mem_threadgroup);
      for (uint step = 0; step < MATVEC_DEPTH; step += 8) {
        simdgroup_float8x8 a, b;
        simdgroup_load(a, &inputs[simd][0][step], MATVEC_DEPTH);
        simdgroup_load(b, &weights[simd][0][step], MATVEC_DEPTH, ulong2(0, 0), true);
        simdgroup_multiply_accumulate(sums, a, b, sums);
      }
    }
    simdgroup_store(sums, parts + s * MATVEC_ROWS * MATVEC_OUTPUTS, MATVEC_OUTPUTS);
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  const uint row = thread_index / MATVEC_OUTPUTS, output = first_output + thread_index % MATVEC_OUTPUTS;
  if (row >= p.rows || output >= p.outputs) return;
  float sum = 0.0f;
  for (uint s = 0; s < splits; s++) sum += parts[s * MATVEC_ROWS * MATVEC_OUTPUTS + thread_index];
  y[ulong(row) * p.outputs + output] = HAS_BIAS ? sum + bias[output] : sum;
}

#define MATMUL(name, W)                                                                                                                        \
  template [[host_name(PSI_STRING(matmul_##name))]] kernel void matmul<W>(device float*, device const float*, device const uchar*,            \
                                                                          device const float*, constant MatmulParams&, uint2, uint, uint);      \
  template [[host_name(PSI_STRING(matvec_##name))]] kernel void matvec<W>(device float*, device const float*, device const uchar*,            \
                                                                          device const float*, constant MatmulParams&, threadgroup float*, uint, uint, \
                                                                          uint, uint);
PSI_EACH_WEIGHT(MATMUL)
