#pragma once
struct NormParams {
  unsigned int rows, width;
  float eps;
};
typedef struct NormParams NormParams;
