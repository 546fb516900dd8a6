#pragma once
struct LookupParams {
  unsigned int tokens, width, vocabulary;
};
typedef struct LookupParams LookupParams;
