#pragma once
#include "cache.h"
/*
 * Positions are cut into tiles of ATTENTION_TILE. ATTENTION_DEPTH elements of a head pass through threadgroup memory at a time, in rows of
 * ATTENTION_STRIDE; ATTENTION_SCORES is a row of scores. From ATTENTION_MANY tokens on a threadgroup has 32 rows, else 8.
 */
enum {
  ATTENTION_TILE = 64,
  ATTENTION_SIMDS = 4,
  ATTENTION_THREADS = 128,
  ATTENTION_DEPTH = 32,
  ATTENTION_STRIDE = 36,
  ATTENTION_SCORES = 68,
  ATTENTION_MANY = 32,
  ATTENTION_MOST_SPLITS = 64
};
struct AttentionParams {
  struct CacheParams cache;
  int q_stride, q_offset, heads, window;
  int rows_heads, rows_tokens; /* of a threadgroup's rows: heads of a token, tokens */
  int first_group;             /* of this launch, along y */
  int splits, tiles;           /* threadgroups that share a context; tiles of the longest one */
  float scale, softcap;
};
typedef struct AttentionParams AttentionParams;
