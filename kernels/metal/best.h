/*
 * The best of a row over a threadgroup: the largest value, the lowest place on ties. NaN and what stands outside count as
 * -infinity. Every thread must call it; the result is the same in all.
 */
#pragma once
#include <metal_stdlib>
using namespace metal;

enum { BEST_NONE = 2147483647 };

struct Best {
  float value;
  int id;
};

static inline Best better(Best a, float value, int id) {
  if (value > a.value || (value == a.value && id < a.id)) {
    a.value = value;
    a.id = id;
  }
  return a;
}
static inline Best simd_best(Best b) {
  const float top = simd_max(b.value);
  b.id = simd_min(b.value == top ? b.id : int(BEST_NONE));
  b.value = top;
  return b;
}
static inline Best group_best(Best b, threadgroup float* values, threadgroup int* ids, uint lane, uint simd, uint simds) {
  b = simd_best(b);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (lane == 0) {
    values[simd] = b.value;
    ids[simd] = b.id;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  b.value = lane < simds ? values[lane] : -INFINITY;
  b.id = lane < simds ? ids[lane] : int(BEST_NONE);
  return simd_best(b);
}
