#pragma once
struct AddGatedParams {
  unsigned int rows, width;
};
typedef struct AddGatedParams AddGatedParams;
