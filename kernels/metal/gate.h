#pragma once
#include <metal_stdlib>
using namespace metal;
static inline float sigmoid(float x) { return 1.0f / (1.0f + precise::exp(-x)); }
/* A gated activation: see glu.metal. */
static inline float gated(int kind, float g, float u, float alpha, float limit) {
  if (kind == 0) return g * sigmoid(g) * u;
  /* 0.5 g (1 + tanh v) = g sigmoid(2v), which keeps its digits where tanh is near -1 */
  if (kind == 1) return g * sigmoid(1.5957691216057308f * (g + 0.044715f * g * g * g)) * u;
  g = g < limit ? g : limit;
  u = u < -limit ? -limit : u > limit ? limit : u;
  return g * sigmoid(alpha * g) * (u + 1.0f);
}
