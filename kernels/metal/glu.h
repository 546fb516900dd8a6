#pragma once
struct GluParams {
  int width, gate_stride, up_stride, kind;
  float alpha, limit;
};
typedef struct GluParams GluParams;
