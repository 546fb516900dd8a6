/*
 * sum = x + delta; y = RMS norm of sum times w; ids and weights: the experts chosen by logits y . router_w (+ router_bias): the bits of
 * add_rms_norm, matmul of f32 weights and router, in two launches. Metal orders no memory between threadgroups of a launch, so that none
 * of them can know that it is the last: the logits pass through y's rows, which have room for them.
 *
 * add_norm_logits: a threadgroup makes the logits of 8 rows for 8 experts; it finds the rows' scales for itself and norms what it multiplies.
 * add_norm_choose: a threadgroup has a row: its first simdgroup chooses by the logits, then all write sum and y over them.
 */
#include <metal_stdlib>
#include "add_norm_router.h"
#include "reduce.h"
#include "router_choice.h"
using namespace metal;

constant bool HAS_BIAS [[function_constant(0)]];

kernel void add_norm_logits(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], device const float* delta [[buffer(2)]],
                            device const float* w [[buffer(3)]], device const float* router_w [[buffer(4)]], device const float* router_bias [[buffer(5)]],
                            constant AddNormRouterParams& p [[buffer(6)]], uint2 tile [[threadgroup_position_in_grid]],
                            uint thread_index [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],
                            uint simd [[simdgroup_index_in_threadgroup]]) {
  threadgroup float partial[32];
  threadgroup float scales[ADD_NORM_ROWS];
  threadgroup float weights[ADD_NORM_SIMDS][8][ADD_NORM_DEPTH];
  threadgroup float inputs[ADD_NORM_SIMDS][ADD_NORM_ROWS][ADD_NORM_DEPTH];
  threadgroup float parts[ADD_NORM_SIMDS][64];
  const uint width = uint(p.width), experts = uint(p.router.experts), first = tile.x * 8, first_row = tile.y * ADD_NORM_ROWS;
  const uint rows = min(uint(ADD_NORM_ROWS), uint(p.rows) - first_row), splits = (width + MATMUL_SPLIT - 1) / MATMUL_SPLIT;
  for (uint r = 0; r < rows; r++) {
    const ulong at = ulong(first_row + r) * width;
    float squares = 0.0f;
    for (uint i = thread_index; i < width; i += ADD_NORM_THREADS) {
      const float v = x[at + i] + delta[at + i];
      squares = fma(v, v, squares);
    }
    squares = group_sum(squares, partial, lane, simd, ADD_NORM_SIMDS);
    if (thread_index == 0) scales[r] = 1.0f / sqrt(squares / float(width) + p.eps);
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  simdgroup_float8x8 sums = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
  const uint end = min((simd + 1) * MATMUL_SPLIT, width);
  for (uint k = simd * MATMUL_SPLIT; k < end; k += ADD_NORM_DEPTH) {
    simdgroup_barrier(mem_flags::mem_threadgroup);
    const uint column = k + lane;
    const bool inside = column < width;
    for (uint i = 0; i < 8; i++) {
      weights[simd][i][lane] = inside && first + i < experts ? router_w[ulong(first + i) * width + column] : 0.0f;
      const ulong at = ulong(first_row + min(i, rows - 1)) * width + column;
      inputs[simd][i][lane] = inside && i < rows ? (x[at] + delta[at]) * scales[i] * w[column] : 0.0f;
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
    for (uint step = 0; step < ADD_NORM_DEPTH; step += 8) {
      simdgroup_float8x8 a, b;
      simdgroup_load(a, &inputs[simd][0][step], ADD_NORM_DEPTH);
      simdgroup_load(b, &weights[simd][0][step], ADD_NORM_DEPTH, ulong2(0, 0), true);
      simdgroup_multiply_accumulate(sums, a, b, sums);
    }
  }
  simdgroup_store(sums, &parts[simd][0], 8);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  const uint row = thread_index / 8, expert = first + thread_index % 8;
  if (row >= rows || expert >= experts) return;
  float sum = 0.0f;
  for (uint s = 0; s < splits; s++) sum += parts[s][thread_index];
  y[ulong(first_row + row) * width + expert] = HAS_BIAS ? sum + router_bias[expert] : sum;
}

kernel void add_norm_choose(device float* sum [[buffer(0)]], device float* y [[buffer(1)]], device int* ids [[buffer(2)]], device float* weights [[buffer(3)]],
                            device const float* x [[buffer(4)]], device const float* delta [[buffer(5)]], device const float* w [[buffer(6)]],
                            constant AddNormRouterParams& p [[buffer(7)]], uint row [[threadgroup_position_in_grid]],
                            uint thread_index [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],
                            uint simd [[simdgroup_index_in_threadgroup]]) {
  threadgroup float partial[32];
  const uint width = uint(p.width);
  const ulong at = ulong(row) * width, chosen = ulong(row) * uint(p.router.used);
  if (simd == 0) choose_experts(ids + chosen, weights + chosen, y + at, false, y, false, y, p.router, lane);
  threadgroup_barrier(mem_flags::mem_device);
  float squares = 0.0f;
  for (uint i = thread_index; i < width; i += ADD_NORM_THREADS) {
    const float v = x[at + i] + delta[at + i];
    sum[at + i] = v;
    squares = fma(v, v, squares);
  }
  squares = group_sum(squares, partial, lane, simd, ADD_NORM_SIMDS);
  const float scale = 1.0f / sqrt(squares / float(width) + p.eps);
  for (uint i = thread_index; i < width; i += ADD_NORM_THREADS) y[at + i] = sum[at + i] * scale * w[i];
}
