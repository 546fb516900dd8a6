#pragma once
struct MixParams {
  unsigned int rows, width;
  float alpha, beta;
};
typedef struct MixParams MixParams;
