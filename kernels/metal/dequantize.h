#pragma once
struct DequantizeParams {
  unsigned int rows, columns, groups;
};
typedef struct DequantizeParams DequantizeParams;
