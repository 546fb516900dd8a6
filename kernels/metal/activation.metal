/*
 * y = act(x) * up (up absent: act(x)) and its gradient, f32 or bf16 each, one thread an element. With s = sigmoid:
 *   silu: x s(x)      gelu: x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))      relu2: max(x,0)^2
 *   clamped (GPT-OSS): g = min(x,limit), u = clamp(up,+-limit): g s(alpha g) (u + 1); no gradient beyond the limits.
 */
#include <metal_stdlib>
#include "activation.h"
#include "numbers.h"
using namespace metal;

constant int KIND [[function_constant(0)]];
constant bool HAS_UP [[function_constant(1)]];
constant bool HAS_UP_GRADIENT [[function_constant(2)]];

static constant float GELU_SLOPE = 0.79788456080286535588f;
static constant float GELU_CUBE = 0.044715f;

/* Value and slope of the activation without `up`; for `clamped` x is already clamped. */
static inline float2 value_and_slope(float x, float alpha) {
  if (KIND == ACTIVATION_GELU) {
    const float squared = x * x, t = tanh(GELU_SLOPE * x * fma(GELU_CUBE, squared, 1.0f));
    const float inner = GELU_SLOPE * fma(3.0f * GELU_CUBE, squared, 1.0f);
    return float2(0.5f * x * (1.0f + t), 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * inner);
  }
  if (KIND == ACTIVATION_RELU2) {
    const float positive = x > 0.0f ? x : 0.0f;
    return float2(positive * positive, positive + positive);
  }
  const float a = KIND == ACTIVATION_CLAMPED ? alpha : 1.0f, s = 1.0f / (1.0f + exp(-a * x));
  return float2(x * s, s * (1.0f + a * x * (1.0f - s)));
}

kernel void activation_f32(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], device const float* up [[buffer(2)]],
                           constant ActivationParams& p [[buffer(3)]], uint i [[thread_position_in_grid]]) {
  if (i >= p.count) return;
  float in = number(x, i, 1), factor = 1.0f;
  if (HAS_UP) factor = number(up, i, 2);
  if (KIND == ACTIVATION_CLAMPED) {
    in = min(in, p.limit);
    factor = clamp(factor, -p.limit, p.limit) + 1.0f;
  }
  put(y, i, 0, value_and_slope(in, p.alpha).x * factor);
}

kernel void activation_grad_f32(device float* dx [[buffer(0)]], device float* dup [[buffer(1)]], device const float* dy [[buffer(2)]],
                                device const float* x [[buffer(3)]], device const float* up [[buffer(4)]], constant ActivationParams& p [[buffer(5)]],
                                uint i [[thread_position_in_grid]]) {
  if (i >= p.count) return;
  const bool clamped = KIND == ACTIVATION_CLAMPED;
  const float in = number(x, i, 3), d = number(dy, i, 2);
  float given = 1.0f;
  if (HAS_UP) given = number(up, i, 4);
  const float factor = clamped ? clamp(given, -p.limit, p.limit) + 1.0f : given;
  const float2 at = value_and_slope(clamped ? min(in, p.limit) : in, p.alpha);
  put(dx, i, 0, clamped && in > p.limit ? 0.0f : d * factor * at.y);
  if (HAS_UP_GRADIENT) put(dup, i, 1, clamped && fabs(given) > p.limit ? 0.0f : d * at.x);
}
