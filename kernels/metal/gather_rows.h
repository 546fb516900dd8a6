#pragma once
struct GatherRowsParams {
  unsigned int width;
  int source_rows;
};
typedef struct GatherRowsParams GatherRowsParams;
