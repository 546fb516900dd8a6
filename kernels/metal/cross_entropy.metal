/*
 * loss[t] = lse[t] - z[t,target], z = softcap(x w^T + bias), with z made in chunks of the vocabulary by gemm.metal: forward
 * keeps a running maximum and sum (a pair of floats) per row, backward makes each chunk again:
 *   dz = (exp(z - lse) - [j = target]) dloss[t] (1 - (z/cap)^2), in place of z.
 * A threadgroup has a row; a thread's columns are thread, thread + threads, ..., then the threads' sums by reduce.h. A target
 * below 0 has loss 0 and no gradient, one beyond the vocabulary is no number.
 */
#include <metal_stdlib>
#include "cross_entropy.h"
#include "pair.h"
#include "reduce.h"
using namespace metal;

constant bool SOFTCAP [[function_constant(0)]];

static inline float capped(float z, float cap) { return SOFTCAP ? cap * tanh(z / cap) : z; }

kernel void cross_entropy_f32(device float* loss [[buffer(0)]], device float* lse [[buffer(1)]], device float* running [[buffer(2)]],
                              device float2* sums [[buffer(3)]], device const float* logits [[buffer(4)]], device const int* targets [[buffer(5)]],
                              constant CrossEntropyParams& p [[buffer(6)]], uint row [[threadgroup_position_in_grid]],
                              uint thread_index [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],
                              uint simd [[simdgroup_index_in_threadgroup]], uint simds [[simdgroups_per_threadgroup]]) {
  threadgroup float partial[32];
  const ulong at = ulong(row) * p.count;
  const uint step = 32 * simds;
  float largest = -INFINITY;
  for (uint j = thread_index; j < p.count; j += step) largest = max(largest, capped(logits[at + j], p.softcap));
  largest = group_max(largest, partial, lane, simd, simds);
  const float before = p.starts != 0 ? largest : running[row];
  largest = max(largest, before);
  float sum = 0.0f;
  for (uint j = thread_index; j < p.count; j += step) sum += exp(capped(logits[at + j], p.softcap) - largest);
  sum = group_sum(sum, partial, lane, simd, simds);
  /* group_max read running in all threads before its barriers' last; thread 0 alone goes on */
  threadgroup_barrier(mem_flags::mem_device);
  if (thread_index != 0) return;
  float2 total = float2(sum, 0.0f);
  if (p.starts == 0) total = pair_add(pair_multiply(sums[row], float2(exp(before - largest), 0.0f)), total);
  sums[row] = total;
  running[row] = largest;
  const int target = targets[row];
  float chosen = p.starts != 0 ? NAN : loss[row];
  if (target >= int(p.first) && target - int(p.first) < int(p.count)) chosen = capped(logits[at + uint(target) - p.first], p.softcap);
  if (p.ends != 0) {
    const float whole = largest + log(total.x);
    lse[row] = whole;
    chosen = target < 0 ? 0.0f : whole - chosen;
  }
  loss[row] = chosen;
}

kernel void cross_entropy_grad_f32(device float* logits [[buffer(0)]], device const float* lse [[buffer(1)]], device const float* dloss [[buffer(2)]],
                                   device const int* targets [[buffer(3)]], constant CrossEntropyParams& p [[buffer(4)]],
                                   uint2 place [[thread_position_in_grid]]) {
  if (place.x >= p.count) return;
  const ulong at = ulong(place.y) * p.count + place.x;
  const int target = targets[place.y];
  if (target < 0) {
    logits[at] = 0.0f;
    return;
  }
  const float z = capped(logits[at], p.softcap);
  float d = exp(z - lse[place.y]);
  if (uint(target) == p.first + place.x) d = d - 1.0f;
  if (uint(target) >= p.vocabulary) d = NAN;
  d = d * dloss[place.y];
  if (SOFTCAP) d = d * (1.0f - z * z / (p.softcap * p.softcap));
  logits[at] = d;
}
