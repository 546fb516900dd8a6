#pragma once
struct ColumnSumParams {
  unsigned int rows, width, has_starts;
};
typedef struct ColumnSumParams ColumnSumParams;
