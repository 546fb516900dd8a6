/* The gated activations of psi_glu, for every kernel that applies one: the same roundings wherever it is inlined. */
#pragma once
#include "launch.h"

namespace psi {

__device__ __forceinline__ float gate_sigmoid(float x) { return __fdividef(1.0f, __fadd_rn(1.0f, __expf(-x))); }

/* act(g) * u. kind 0: silu; 1: gelu (tanh form); 2: g = min(g, limit), u = clamp(u, +-limit), g sigmoid(alpha g) (u + 1). */
__device__ __forceinline__ float gated_activation(i32 kind, float g, float u, float alpha, float limit) {
  if (kind == 0) return __fmul_rn(__fmul_rn(g, gate_sigmoid(g)), u);
  if (kind == 1) {
    /* 0.5 g (1 + tanh v) = g sigmoid(2v), which keeps its digits where tanh is near -1 */
    float cubed = __fmul_rn(__fmul_rn(__fmul_rn(0.044715f, g), g), g);
    return __fmul_rn(__fmul_rn(g, gate_sigmoid(__fmul_rn(1.5957691216057308f, __fadd_rn(g, cubed)))), u);
  }
  g = fminf(g, limit);
  u = fmaxf(-limit, fminf(u, limit));
  return __fmul_rn(__fmul_rn(g, gate_sigmoid(__fmul_rn(alpha, g))), __fadd_rn(u, 1.0f));
}

}  // namespace psi
