/*
 * Sums and maxima over a threadgroup in a fixed order: over the lanes of each simdgroup by simd_sum, then over the
 * simdgroups by lane 0's partial results. Every thread of the threadgroup must call them, with `partial` of at least one
 * float per simdgroup; the result is the same in all threads.
 */
#pragma once
#include <metal_stdlib>
using namespace metal;

static inline float group_sum(float x, threadgroup float* partial, uint lane, uint simd, uint simds) {
  x = simd_sum(x);
  if (simds == 1) return x;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (lane == 0) partial[simd] = x;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  return simd_sum(lane < simds ? partial[lane] : 0.0f);
}
static inline float group_max(float x, threadgroup float* partial, uint lane, uint simd, uint simds) {
  x = simd_max(x);
  if (simds == 1) return x;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (lane == 0) partial[simd] = x;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  return simd_max(lane < simds ? partial[lane] : -INFINITY);
}
