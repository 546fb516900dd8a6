#pragma once
struct CastParams {
  unsigned int count;
  float value;
};
typedef struct CastParams CastParams;
