#pragma once
#include "matmul.h"
#include "router.h"
/* A threadgroup of add_norm_logits has ADD_NORM_ROWS rows and as many experts; a simdgroup of it a split of columns. */
enum { ADD_NORM_THREADS = 256, ADD_NORM_SIMDS = 8, ADD_NORM_ROWS = 8, ADD_NORM_DEPTH = 32, ADD_NORM_WIDEST = 4096 };
struct AddNormRouterParams {
  struct RouterParams router;
  int rows, width;
  float eps;
};
typedef struct AddNormRouterParams AddNormRouterParams;
