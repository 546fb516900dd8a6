#pragma once
struct BlockRoundParams {
  unsigned int count;
};
typedef struct BlockRoundParams BlockRoundParams;
