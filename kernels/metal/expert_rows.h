#pragma once
struct ExpertRowsParams {
  unsigned int slots, used, width;
};
typedef struct ExpertRowsParams ExpertRowsParams;
