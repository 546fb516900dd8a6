#pragma once
struct SoftcapParams {
  unsigned int count;
  float cap;
};
typedef struct SoftcapParams SoftcapParams;
