#pragma once
struct RmsNormGatedParams {
  int heads, width, gate_stride, gate_offset;
  float eps;
};
typedef struct RmsNormGatedParams RmsNormGatedParams;
