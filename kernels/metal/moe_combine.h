#pragma once
struct MoeCombineParams {
  int used, width;
};
typedef struct MoeCombineParams MoeCombineParams;
