/*
 * c[i,j] (+)= sum_k a'[i,k] b'[k,j] (+ bias[j]); a, b and c f32 or bf16, sums in f32, k ascending in steps of 8 from zero by
 * simdgroup_multiply_accumulate, whatever m and n. A threadgroup of 4 simdgroups makes 32 x 32 of c, 32 of k at a time:
 * tiles of a and b pass through threadgroup memory in the order they lie in, and each simdgroup makes 16 x 16.
 * A matrix of the batch is a z of the grid. Groups are experts, rows starts[e] .. starts[e+1] of all rows:
 *   GEMM_ROWS: rows of a and c; b (and bias) of the expert.   GEMM_SUMS: k, rows of a and b; c of the expert.
 */
#include <metal_stdlib>
#include "gemm.h"
#include "numbers.h"
using namespace metal;

constant bool TRANS_A [[function_constant(0)]];
constant bool TRANS_B [[function_constant(1)]];
constant bool HAS_BIAS [[function_constant(2)]];
constant bool ACCUMULATE [[function_constant(3)]];
constant int GROUPS [[function_constant(4)]];

/* [lines][length] of a matrix of rows of `width` from (line, at): 32 x 32 of it to `to`, zeros beyond. */
static inline void stage(threadgroup float* to, device const float* from, ulong base, uint width, uint line, uint lines, uint at, uint length, uint buffer,
                  uint thread_index) {
  for (uint i = thread_index; i < GEMM_SIDE * GEMM_DEPTH; i += GEMM_THREADS) {
    const uint r = i / 32, c = i % 32;
    const bool inside = line + r < lines && at + c < length;
    to[r * GEMM_STRIDE + c] = inside ? number(from, base + ulong(line + r) * width + at + c, buffer) : 0.0f;
  }
}

kernel void gemm_f32(device float* c [[buffer(0)]], device const float* a [[buffer(1)]], device const float* b [[buffer(2)]],
                     device const float* bias [[buffer(3)]], device const int* starts [[buffer(4)]], constant GemmParams& p [[buffer(5)]],
                     uint3 tile [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]],
                     uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]]) {
  threadgroup float left[GEMM_SIDE * GEMM_STRIDE];
  threadgroup float right[GEMM_SIDE * GEMM_STRIDE];
  threadgroup float patch[4 * 64];
  uint m = p.m, k = p.k, from = 0;
  if (GROUPS != GEMM_PLAIN) {
    const int all = int(GROUPS == GEMM_ROWS ? p.m : p.k);
    from = uint(clamp(starts[tile.z], 0, all));
    const uint count = uint(clamp(starts[tile.z + 1], int(from), all)) - from;
    if (GROUPS == GEMM_ROWS) m = count;
    else k = count;
  }
  const uint i0 = tile.y * GEMM_SIDE, j0 = tile.x * GEMM_SIDE;
  if (i0 >= m || (GROUPS == GEMM_SUMS && k == 0)) return;
  const ulong z = tile.z;
  const ulong a_base = GROUPS == GEMM_ROWS ? ulong(from) * p.k : GROUPS == GEMM_SUMS ? ulong(from) * p.m : z * p.m * p.k;
  const ulong b_base = GROUPS == GEMM_SUMS ? ulong(from) * p.n : z * p.n * p.k;
  const ulong c_base = GROUPS == GEMM_ROWS ? ulong(from) * p.n : z * p.m * p.n;
  const uint row = simd / 2 * 16, column = simd % 2 * 16;
  simdgroup_float8x8 sums[4];
  for (uint i = 0; i < 4; i++) sums[i] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
  for (uint k0 = 0; k0 < k; k0 += GEMM_DEPTH) {
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (TRANS_A) stage(left, a, a_base, p.m, k0, k, i0, m, 1, thread_index);
    else stage(left, a, a_base, p.k, i0, m, k0, k, 1, thread_index);
    if (TRANS_B) stage(right, b, b_base, p.k, j0, p.n, k0, k, 2, thread_index);
    else stage(right, b, b_base, p.n, k0, k, j0, p.n, 2, thread_index);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint step = 0; step < GEMM_DEPTH && k0 + step < k; step += 8) {
      simdgroup_float8x8 x[2], y[2];
      for (uint i = 0; i < 2; i++) {
        if (TRANS_A) simdgroup_load(x[i], left + step * GEMM_STRIDE + row + 8 * i, GEMM_STRIDE, ulong2(0, 0), true);
        else simdgroup_load(x[i], left + (row + 8 * i) * GEMM_STRIDE + step, GEMM_STRIDE);
        if (TRANS_B) simdgroup_load(y[i], right + (column + 8 * i) * GEMM_STRIDE + step, GEMM_STRIDE, ulong2(0, 0), true);
        else simdgroup_load(y[i], right + step * GEMM_STRIDE + column + 8 * i, GEMM_STRIDE);
      }
      for (uint i = 0; i < 4; i++) simdgroup_multiply_accumulate(sums[i], x[i / 2], y[i % 2], sums[i]);
    }
  }
  for (uint i = 0; i < 4; i++) {
    simdgroup_barrier(mem_flags::mem_threadgroup);
    simdgroup_store(sums[i], patch + simd * 64, 8);
    simdgroup_barrier(mem_flags::mem_threadgroup);
    for (uint e = lane; e < 64; e += 32) {
      const uint r = i0 + row + i / 2 * 8 + e / 8, j = j0 + column + i % 2 * 8 + e % 8;
      if (r >= m || j >= p.n) continue;
      float v = patch[simd * 64 + e];
      if (HAS_BIAS) v = v + bias[GROUPS == GEMM_ROWS ? z * p.n + j : j];
      const ulong at = c_base + ulong(r) * p.n + j;
      if (ACCUMULATE) v = number(c, at, 0) + v;
      put(c, at, 0, v);
    }
  }
}
