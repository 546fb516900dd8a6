#pragma once
struct MoeCombineParams {
  int tokens, used, width;
  float eps; /* moe_combine_norm only */
};
typedef struct MoeCombineParams MoeCombineParams;
