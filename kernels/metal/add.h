#pragma once
struct AddParams {
  unsigned int count;
};
typedef struct AddParams AddParams;
