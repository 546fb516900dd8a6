#pragma once
struct RopeParams {
  int stride, offset, head_dim, pairs, neox;
  float mscale;
};
typedef struct RopeParams RopeParams;
