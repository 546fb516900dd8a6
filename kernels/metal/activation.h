#pragma once
enum { ACTIVATION_SILU, ACTIVATION_GELU, ACTIVATION_CLAMPED, ACTIVATION_RELU2 };
struct ActivationParams {
  unsigned int count;
  float alpha, limit;
};
typedef struct ActivationParams ActivationParams;
