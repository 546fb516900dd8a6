#pragma once
struct SigmoidGateParams {
  unsigned int row_width, width;
  int gate_stride, gate_offset, head_stride;
};
typedef struct SigmoidGateParams SigmoidGateParams;
