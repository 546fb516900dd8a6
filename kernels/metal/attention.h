#pragma once
#include "cache.h"
enum { ATTENTION_SIMDS = 4, ATTENTION_CHUNK = 32, ATTENTION_MOST_WIDTH = 512 };
struct AttentionParams {
  struct CacheParams cache;
  int q_stride, q_offset, heads, window;
  float scale, softcap;
};
typedef struct AttentionParams AttentionParams;
