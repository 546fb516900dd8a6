#pragma once
struct RotateParams {
  unsigned int rows, heads, head_dim, rotary_dims, neox;
  float mscale, sign;
};
typedef struct RotateParams RotateParams;
