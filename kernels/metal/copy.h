#pragma once
struct CopyParams {
  unsigned int count;
};
typedef struct CopyParams CopyParams;
