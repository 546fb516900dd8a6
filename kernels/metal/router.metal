/*
 * Choice of experts: logits f32 [tokens,experts] -> ids, weights [tokens,used], descending, the lower index on ties. mode 1: softmax over
 * all, then the top; 2: sigmoid; 3: the top, then softmax over them. bias is added for choosing only, NaN chosen last. normalize: divide
 * by the sum, at least 2^-14. expert_scale multiplies at the end. A simdgroup has a token (router_choice.h).
 */
#include <metal_stdlib>
#include "router_choice.h"
using namespace metal;

constant bool HAS_BIAS [[function_constant(0)]];
constant bool HAS_SCALE [[function_constant(1)]];

kernel void router_f32(device int* ids [[buffer(0)]], device float* weights [[buffer(1)]], device const float* logits [[buffer(2)]],
                       device const float* bias [[buffer(3)]], device const float* expert_scale [[buffer(4)]],
                       constant RouterParams& p [[buffer(5)]], uint t [[threadgroup_position_in_grid]],
                       uint lane [[thread_index_in_simdgroup]]) {
  const ulong chosen = ulong(t) * uint(p.used);
  choose_experts(ids + chosen, weights + chosen, logits + ulong(t) * uint(p.experts), HAS_BIAS, bias, HAS_SCALE, expert_scale, p, lane);
}
