/*
 * Routing of tokens to experts for training, with gradients, f32; at most 1,024 experts.
 *   route: the `used` largest logits, the lower index on ties; weights: mode 1 softmax over all, 3 softmax over the chosen.
 *   A simdgroup has a token; a lane's experts are lane, lane + 32, ...
 *   expert_count, expert_starts, expert_place: slots sorted by expert (stable), where each went, where each expert begins; a
 *   simdgroup has an expert and looks at all slots in order.
 *   balance_loss: experts * sum_e f_e P_e, f the share of slots and P the mean probability (Switch Transformer,
 *   arXiv:2101.03961). One threadgroup; its gradient: a threadgroup has 32 tokens, a simdgroup every eighth of them.
 */
#include <metal_stdlib>
#include "pair.h"
#include "reduce.h"
#include "route.h"
using namespace metal;

static inline float largest_logit(device const float* z, uint experts, uint lane) {
  float most = -INFINITY;
  for (uint e = lane; e < experts; e += 32) most = max(most, z[e]);
  return simd_max(most);
}
/* The softmax's denominator. */
static inline float logit_sum(device const float* z, uint experts, uint lane, float most) {
  float sum = 0.0f;
  for (uint e = lane; e < experts; e += 32) sum += exp(z[e] - most);
  return simd_sum(sum);
}

kernel void route_f32(device int* ids [[buffer(0)]], device float* weights [[buffer(1)]], device const float* logits [[buffer(2)]],
                      constant RouteParams& p [[buffer(3)]], uint token [[threadgroup_position_in_grid]],
                      uint lane [[thread_index_in_simdgroup]]) {
  device const float* z = logits + ulong(token) * p.experts;
  const ulong first = ulong(token) * p.used;
  const float most = largest_logit(z, p.experts, lane);
  float sum = 0.0f;
  if (p.mode == 1) sum = logit_sum(z, p.experts, lane, most);
  uint taken = 0;
  float chosen_sum = 0.0f;
  for (uint j = 0; j < p.used; j++) {
    float best = -INFINITY;
    uint at = ROUTE_EXPERTS;
    for (uint e = lane, i = 0; e < p.experts; e += 32, i++)
      if ((taken >> i & 1) == 0 && (at == ROUTE_EXPERTS || z[e] > best)) {
        best = z[e];
        at = e;
      }
    const float value = simd_max(best);
    const uint winner = min(simd_min(at != ROUTE_EXPERTS && best == value ? at : uint(ROUTE_EXPERTS)), p.experts - 1);
    if (winner % 32 == lane) taken |= uint(1) << (winner / 32);
    const float weight = exp(value - most);
    chosen_sum += weight;
    if (lane == 0) {
      ids[first + j] = int(winner);
      weights[first + j] = weight;
    }
  }
  if (lane != 0) return;
  for (uint j = 0; j < p.used; j++) weights[first + j] = weights[first + j] / (p.mode == 1 ? sum : chosen_sum);
}

kernel void route_grad_f32(device float* dlogits [[buffer(0)]], device const float* dweights [[buffer(1)]], device const float* weights [[buffer(2)]],
                           device const int* ids [[buffer(3)]], device const float* logits [[buffer(4)]], constant RouteParams& p [[buffer(5)]],
                           uint token [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]]) {
  device const float* z = logits + ulong(token) * p.experts;
  device float* d = dlogits + ulong(token) * p.experts;
  const ulong first = ulong(token) * p.used;
  float mean = 0.0f;
  for (uint j = 0; j < p.used; j++) mean = fma(weights[first + j], dweights[first + j], mean);
  float most = 0.0f, sum = 1.0f;
  if (p.mode == 1) {
    most = largest_logit(z, p.experts, lane);
    sum = logit_sum(z, p.experts, lane, most);
  }
  for (uint e = lane; e < p.experts; e += 32) {
    float v = p.mode == 1 ? -(exp(z[e] - most) / sum) * mean : 0.0f;
    for (uint j = 0; j < p.used; j++)
      if (ids[first + j] == int(e)) v += weights[first + j] * (p.mode == 1 ? dweights[first + j] : dweights[first + j] - mean);
    d[e] = v;
  }
}

kernel void expert_count(device int* starts [[buffer(0)]], device const int* ids [[buffer(1)]], constant RouteParams& p [[buffer(2)]],
                         uint expert [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]]) {
  int count = 0;
  for (uint s = lane; s < p.tokens * p.used; s += 32) count += ids[s] == int(expert) ? 1 : 0;
  count = simd_sum(count);
  if (lane == 0) starts[expert + 1] = count;
}
kernel void expert_starts(device int* starts [[buffer(0)]], constant RouteParams& p [[buffer(1)]], uint i [[thread_position_in_grid]]) {
  if (i != 0) return;
  int next = 0;
  starts[0] = 0;
  for (uint e = 1; e <= p.experts; e++) {
    next += starts[e];
    starts[e] = next;
  }
}
kernel void expert_place(device int* slots [[buffer(0)]], device int* places [[buffer(1)]], device const int* starts [[buffer(2)]],
                         device const int* ids [[buffer(3)]], constant RouteParams& p [[buffer(4)]], uint expert [[threadgroup_position_in_grid]],
                         uint lane [[thread_index_in_simdgroup]]) {
  uint next = uint(starts[expert]);
  const uint count = p.tokens * p.used;
  for (uint base = 0; base < count; base += 32) {
    const uint s = base + lane;
    const bool mine = s < count && ids[min(s, count - 1)] == int(expert);
    const uint all = uint(ulong(simd_ballot(mine)));
    if (mine) {
      const uint place = next + popcount(all & ((uint(1) << lane) - 1));
      places[s] = int(place);
      slots[place] = int(s);
    }
    next += popcount(all);
  }
}

/* shares [experts]: slots of each; called by all threads. */
static inline void count_shares(threadgroup atomic_uint* shares, device const int* ids, uint experts, uint slots, uint thread_index, uint threads) {
  for (uint e = thread_index; e < experts; e += threads) atomic_store_explicit(&shares[e], 0, memory_order_relaxed);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (uint s = thread_index; s < slots; s += threads)
    if (uint(ids[s]) < experts) atomic_fetch_add_explicit(&shares[uint(ids[s])], 1, memory_order_relaxed);
  threadgroup_barrier(mem_flags::mem_threadgroup);
}
/* sum_e share_e p_e of one token. */
static inline float shared_mean(threadgroup atomic_uint* shares, device const float* z, uint experts, uint slots, uint lane, float most, float sum) {
  float mean = 0.0f;
  for (uint e = lane; e < experts; e += 32)
    mean = fma(float(atomic_load_explicit(&shares[e], memory_order_relaxed)) / float(slots), exp(z[e] - most) / sum, mean);
  return simd_sum(mean);
}

kernel void balance_loss_f32(device float* loss [[buffer(0)]], device const float* logits [[buffer(1)]], device const int* ids [[buffer(2)]],
                             constant RouteParams& p [[buffer(3)]], uint thread_index [[thread_index_in_threadgroup]],
                             uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]],
                             uint simds [[simdgroups_per_threadgroup]]) {
  threadgroup atomic_uint shares[ROUTE_EXPERTS];
  threadgroup float2 partial[32];
  const uint slots = p.tokens * p.used;
  count_shares(shares, ids, p.experts, slots, thread_index, 32 * simds);
  float2 total = float2(0.0f, 0.0f);
  for (uint t = simd; t < p.tokens; t += simds) {
    device const float* z = logits + ulong(t) * p.experts;
    const float most = largest_logit(z, p.experts, lane), sum = logit_sum(z, p.experts, lane, most);
    const float mean = shared_mean(shares, z, p.experts, slots, lane, most, sum);
    if (lane == 0) total = pair_add(total, float2(mean, 0.0f));
  }
  total = group_pair_sum(total, partial, lane, simd, simds);
  if (thread_index == 0) loss[0] = p.tokens == 0 ? 0.0f : total.x * float(p.experts) / float(p.tokens);
}

kernel void balance_loss_grad_f32(device float* dlogits [[buffer(0)]], device const float* dloss [[buffer(1)]], device const float* logits [[buffer(2)]],
                                  device const int* ids [[buffer(3)]], constant RouteParams& p [[buffer(4)]],
                                  uint group [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]],
                                  uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]],
                                  uint simds [[simdgroups_per_threadgroup]]) {
  threadgroup atomic_uint shares[ROUTE_EXPERTS];
  const uint slots = p.tokens * p.used;
  count_shares(shares, ids, p.experts, slots, thread_index, 32 * simds);
  const float scale = dloss[0] * float(p.experts) / float(p.tokens);
  const uint end = min((group + 1) * uint(BALANCE_TOKENS), p.tokens);
  for (uint t = group * BALANCE_TOKENS + simd; t < end; t += simds) {
    device const float* z = logits + ulong(t) * p.experts;
    const float most = largest_logit(z, p.experts, lane), sum = logit_sum(z, p.experts, lane, most);
    const float mean = shared_mean(shares, z, p.experts, slots, lane, most, sum);
    for (uint e = lane; e < p.experts; e += 32) {
      const float share = float(atomic_load_explicit(&shares[e], memory_order_relaxed)) / float(slots);
      dlogits[ulong(t) * p.experts + e] = scale * (exp(z[e] - most) / sum) * (share - mean);
    }
  }
}
