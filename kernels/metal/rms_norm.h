#pragma once
struct RmsNormParams {
  int stride, offset, groups, width;
  float eps;
};
typedef struct RmsNormParams RmsNormParams;
