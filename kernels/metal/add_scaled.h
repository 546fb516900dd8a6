#pragma once
struct AddScaledParams {
  unsigned int count;
  float scale;
};
typedef struct AddScaledParams AddScaledParams;
