/* Kernels with one mistake each, and correct ones beside them: what the stand-in must see, and must not. */
#include <metal_stdlib>
using namespace metal;

constant int SHIFT [[function_constant(0)]];

kernel void good(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], uint i [[thread_index_in_threadgroup]],
                 uint n [[threads_per_threadgroup]]) {
  threadgroup float t[256];
  t[i] = x[i];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = t[n - 1 - i] + float(SHIFT);
}

/* ---- bounds ---- */
kernel void reads_past_end(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], uint i [[thread_position_in_grid]]) {
  y[i] = x[i + 1];
}
kernel void writes_past_end(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], uint i [[thread_position_in_grid]]) {
  y[i == 5 ? 64 : i] = x[i];
}
kernel void reads_before_begin(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], uint i [[thread_position_in_grid]]) {
  y[i] = x[int(i) - 1];
}
kernel void reads_past_threadgroup(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], uint i [[thread_index_in_threadgroup]]) {
  threadgroup float t[64];
  threadgroup float other[64];
  t[i] = x[i];
  other[i] = 0.0f;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = t[i + SHIFT] + other[i];
}
kernel void writes_const(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], uint i [[thread_position_in_grid]]) {
  y[i] = 0.0f;
  if (i == 3) ((device float*)x)[i] = 1.0f;
}
kernel void atomic_outside(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], uint i [[thread_position_in_grid]]) {
  y[i] = x[i];
  atomic_fetch_add_explicit((device atomic_uint*)y + 64, 1u, memory_order_relaxed);
}

/* ---- alignment ---- */
kernel void misaligned(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], uint i [[thread_position_in_grid]]) {
  float4 v = *(device const float4*)(x + (i == 2 ? 1 : 0));
  y[i] = v.x + v.w;
}

/* ---- races ---- */
kernel void no_barrier(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], uint i [[thread_index_in_threadgroup]],
                       uint n [[threads_per_threadgroup]]) {
  threadgroup float t[256];
  t[i] = x[i];
  y[i] = t[n - 1 - i];
}
kernel void wrong_fence(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], uint i [[thread_index_in_threadgroup]],
                        uint n [[threads_per_threadgroup]]) {
  threadgroup float t[256];
  t[i] = x[i];
  threadgroup_barrier(mem_flags::mem_device);
  y[i] = t[n - 1 - i];
}
kernel void no_second_barrier(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], uint i [[thread_index_in_threadgroup]],
                              uint n [[threads_per_threadgroup]]) {
  threadgroup float t[256];
  float sum = 0.0f;
  for (uint round = 0; round < 2; round++) {
    t[i] = x[i];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    sum += t[n - 1 - i];
    if (round == 0) simdgroup_barrier(mem_flags::mem_threadgroup);
  }
  y[i] = sum;
}
kernel void no_simd_barrier(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], uint i [[thread_index_in_threadgroup]]) {
  threadgroup float t[32];
  t[i] = x[i];
  y[i] = simd_sum(t[31 - i]);
}
kernel void simd_barrier_in_one(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], uint i [[thread_index_in_threadgroup]]) {
  threadgroup float t[32];
  t[i] = x[i];
  simdgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = t[31 - i];
}
kernel void simd_barrier_in_two(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], uint i [[thread_index_in_threadgroup]]) {
  threadgroup float t[64];
  t[i] = x[i];
  simdgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = t[63 - i];
}
kernel void device_race(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], uint i [[thread_index_in_threadgroup]],
                        uint g [[threadgroup_position_in_grid]]) {
  y[i] = x[i] + float(g);
}
kernel void device_fence(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], uint i [[thread_index_in_threadgroup]],
                         uint n [[threads_per_threadgroup]]) {
  y[i] = x[i];
  threadgroup_barrier(SHIFT == 0 ? mem_flags::mem_device : mem_flags::mem_threadgroup);
  float other = y[n - 1 - i];
  threadgroup_barrier(mem_flags::mem_device);
  y[i] = other;
}

/* ---- barriers ---- */
kernel void divergent_barrier(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], uint i [[thread_index_in_threadgroup]]) {
  if (i < 16) threadgroup_barrier(mem_flags::mem_threadgroup);
  else simdgroup_barrier(mem_flags::mem_none);
  y[i] = x[i];
}
kernel void early_return(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], uint i [[thread_index_in_threadgroup]]) {
  if (i >= 40) return;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = x[i];
}
kernel void late_barrier(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], uint i [[thread_index_in_threadgroup]]) {
  if (i < 8) return;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = x[i];
}
kernel void two_barriers(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], uint i [[thread_index_in_threadgroup]]) {
  if (i < 32) {
    y[i] = x[i];
    threadgroup_barrier(mem_flags::mem_threadgroup);
  } else {
    threadgroup_barrier(mem_flags::mem_threadgroup);
    y[i] = x[i];
  }
}
kernel void divergent_simd(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], uint i [[thread_index_in_threadgroup]]) {
  if (i % 32 < 16) y[i] = simd_sum(x[i]);
  else y[i] = simd_max(x[i]);
}
kernel void live_lanes(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], uint i [[thread_index_in_threadgroup]]) {
  if (i >= 40) return;
  y[i] = simd_sum(x[i]);
}

/* ---- limits ---- */
kernel void too_much_memory(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], uint i [[thread_index_in_threadgroup]]) {
  threadgroup float t[8000];
  threadgroup float more[200];
  t[i] = x[i];
  more[i] = x[i];
  y[i] = t[i] + more[i];
}
kernel void given_memory(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], threadgroup float* t [[threadgroup(0)]],
                         uint i [[thread_index_in_threadgroup]]) {
  t[i] = x[i];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  y[i] = t[i];
}
