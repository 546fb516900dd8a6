#pragma once
struct HeadScaleParams {
  unsigned int rows, heads, head_dim;
};
typedef struct HeadScaleParams HeadScaleParams;
