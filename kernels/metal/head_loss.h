#pragma once
struct HeadLossParams {
  unsigned int vocabulary;
  float softcap, scale;
};
typedef struct HeadLossParams HeadLossParams;
struct ScaleByParams {
  unsigned int count;
};
typedef struct ScaleByParams ScaleByParams;
