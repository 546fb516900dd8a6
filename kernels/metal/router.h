#pragma once
enum { ROUTER_THREADS = 32, ROUTER_MOST_EXPERTS = 4096 };
struct RouterParams {
  int experts, used, mode, normalize;
  float scale;
};
typedef struct RouterParams RouterParams;
