#pragma once
enum { TOP_K_THREADS = 256 };
struct TopKParams {
  int width, k;
};
typedef struct TopKParams TopKParams;
