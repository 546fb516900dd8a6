/*
 * Attention over the paged cache, for the files that make it up.
 *
 * Positions are cut into tiles of 64 at absolute places. For a (token, head) a tile gives, from nothing but itself, m (the
 * largest score), l (the sum of weights 2^(score - m)) and the weighted sum of its values; tiles are then folded from
 * left to right, and the sink last. Every kernel computes a tile with the functions of attention_tile.cuh, so that which
 * kernel takes a token, with whom and how divided, never changes a bit:
 *   split and fold  few tokens: tiles over all multiprocessors, partial results through scratch
 *   direct          a token and kv head per block: its warps take tiles side by side
 *   runs            blocks of tokens of one sequence: tiles one after the other for all of them
 */
#pragma once
#include "launch.h"

namespace psi {

constexpr i32 ATTENTION_TILE = 64;

/* Numbers of the tensor cores: the cache's own 16-bit type, or f16 made while a tile is staged (f32, fp8, q8_0). */
enum AttentionOperand { OPERAND_F16, OPERAND_BF16, OPERAND_CONVERTED };

struct Attention {
  float* y;
  const float* q;
  const u8 *k_cache, *v_cache;
  const i32 *page_table, *token_sequence, *token_position;
  const float* sinks; /* or null */
  float *partial, *partial_sums; /* split: [tokens][heads][tiles][head_dim] and [tokens][heads][tiles][m, l] */
  i64 q_stride, q_offset, page_bytes, scales_at;
  i32 tokens, heads, kv_heads, head_dim, page_size, max_pages, window, cache_type;
  i32 group;      /* heads of a kv head */
  i32 page_shift; /* log2(page_size / 16), or -1 where that is no integer */
  i32 tiles;      /* at most as many tiles concern a token */
  i32 aligned;    /* rows of q may be read 16 bytes at a time */
  /* Of the tokens [i * block, (i + 1) * block) those whose neighbours of the same sequence number `run` or more are for
     the kernel of runs, the others for the direct one. */
  i32 block, run;
  /* score in units of log2: factor * s, or with a soft cap cap * tanh(...), tanh from 2^(factor * s) */
  float factor, cap;
};

enum AttentionWay { WAY_SPLIT, WAY_DIRECT, WAY_RUNS };


template <int OPERAND>
i32 attention_with(const Attention& a, AttentionWay way);

}  // namespace psi
