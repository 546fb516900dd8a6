#pragma once
enum { ARGMAX_THREADS = 256 };
struct ArgmaxParams {
  int width;
};
typedef struct ArgmaxParams ArgmaxParams;
