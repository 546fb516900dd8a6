#pragma once
#include "cache.h"
struct KvWriteParams {
  struct CacheParams cache;
  int k_stride, k_offset, v_stride, v_offset;
};
typedef struct KvWriteParams KvWriteParams;
