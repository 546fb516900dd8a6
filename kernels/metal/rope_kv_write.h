#pragma once
#include "cache.h"
enum { ROPE_KV_WRITE_THREADS = 32 };
struct RopeKvWriteParams {
  struct CacheParams cache;
  int q_stride, q_offset, heads, k_stride, k_offset, v_stride, v_offset;
  int pairs, neox, turning; /* `turning`: threadgroups of a token that turn its queries */
  float mscale;
};
typedef struct RopeKvWriteParams RopeKvWriteParams;
