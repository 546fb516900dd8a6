/*
 * The scaled sum of a head's losses with its gradient, so that logits are made once: for some rows at a time, by gemm.metal,
 *   z = softcap(x w^T),  dx = dz w,  dw (+)= dz^T x
 * and here  loss[t] = lse - z[target],  dz = (exp(z - lse) - [j = target]) scale (1 - (z/cap)^2)  in place of z, which is bf16.
 * A threadgroup has a row; a thread's columns are thread, thread + threads, ..., then the threads' sums by reduce.h. A target
 * below 0 has loss 0 and no gradient, one beyond the vocabulary is no number.
 * scale_by: y = factor[0] x, or += it with ADDS; f32 or bf16 each, one thread an element.
 */
#include <metal_stdlib>
#include "head_loss.h"
#include "numbers.h"
#include "reduce.h"
using namespace metal;

constant bool SOFTCAP [[function_constant(0)]];
constant bool ADDS [[function_constant(1)]];

static inline float capped(float z, float cap) { return SOFTCAP ? cap * tanh(z / cap) : z; }

kernel void head_loss_rows(device float* loss [[buffer(0)]], device float* logits [[buffer(1)]], device const int* targets [[buffer(2)]],
                           constant HeadLossParams& p [[buffer(3)]], uint row [[threadgroup_position_in_grid]],
                           uint thread_index [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],
                           uint simd [[simdgroup_index_in_threadgroup]], uint simds [[simdgroups_per_threadgroup]]) {
  threadgroup float partial[32];
  const ulong at = ulong(row) * p.vocabulary;
  const uint step = 32 * simds;
  const int target = targets[row];
  float largest = -INFINITY;
  for (uint j = thread_index; j < p.vocabulary; j += step) largest = max(largest, capped(number(logits, at + j, 1), p.softcap));
  largest = group_max(largest, partial, lane, simd, simds);
  float sum = 0.0f;
  for (uint j = thread_index; j < p.vocabulary; j += step) sum += exp(capped(number(logits, at + j, 1), p.softcap) - largest);
  const float lse = largest + log(group_sum(sum, partial, lane, simd, simds));
  if (thread_index == 0) {
    float of_row = target < 0 ? 0.0f : NAN;
    if (uint(target) < p.vocabulary) of_row = lse - capped(number(logits, at + uint(target), 1), p.softcap);
    loss[row] = of_row;
  }
  threadgroup_barrier(mem_flags::mem_device); /* the target's logit has been read */
  for (uint j = thread_index; j < p.vocabulary; j += step) {
    const float z = capped(number(logits, at + j, 1), p.softcap);
    float d = exp(z - lse);
    if (uint(target) == j) d = d - 1.0f;
    d = d * p.scale;
    if (SOFTCAP) d = d * (1.0f - z * z / (p.softcap * p.softcap));
    if (uint(target) >= p.vocabulary) d = target < 0 ? 0.0f : NAN;
    put(logits, at + j, 1, d);
  }
}

kernel void scale_by_f32(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], device const float* factor [[buffer(2)]],
                         constant ScaleByParams& p [[buffer(3)]], uint i [[thread_position_in_grid]]) {
  if (i >= p.count) return;
  const float v = factor[0] * number(x, i, 1);
  put(y, i, 0, ADDS ? number(y, i, 0) + v : v);
}
