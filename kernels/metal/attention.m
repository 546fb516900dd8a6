/* psi_attention: see attention.metal. Only few tokens take scratch: the results of their tiles. */
#include <stdio.h>

#include "launch.h"
#include "attention.h"

enum { SPLIT_TOKENS = 4, ENOUGH_GROUPS = 256 };

/* Threadgroups over a context: so many that the GPU is busy. No result depends on it. */
static i32 splits_of(i64 groups, i32 tiles, i32 window) {
  const i32 seen = window > 0 ? (window + 2 * ATTENTION_TILE - 2) / ATTENTION_TILE : tiles;
  i64 splits = PSI_DIVIDE_UP(ENOUGH_GROUPS, groups);
  if (splits > ATTENTION_MOST_SPLITS) splits = ATTENTION_MOST_SPLITS;
  if (splits > tiles) splits = tiles;
  return (i32)(splits < seen ? splits : seen);
}

static i32 launch_combine(void* y, const void* parts, f64 parts_bytes, const void* token_sequence, const void* token_position, const void* sinks,
                          i32 cache_type, const AttentionParams* p) {
  PsiLaunch l = psi_kernel("attention", "attention_combine");
  psi_constant_int(&l, 0, cache_type);
  psi_constant_bool(&l, 1, sinks != NULL);
  psi_constant_bool(&l, 2, true);
  psi_write(&l, 0, y, 4.0 * p->cache.tokens * p->heads * p->cache.head_dim);
  psi_read(&l, 1, parts, parts_bytes);
  psi_read(&l, 2, token_sequence, 4.0 * p->cache.tokens);
  psi_read(&l, 3, token_position, 4.0 * p->cache.tokens);
  psi_read(&l, 4, sinks, sinks ? 4.0 * p->heads : 0);
  psi_params(&l, 5, p, sizeof *p);
  return psi_launch(&l, p->heads, p->cache.tokens, 1, ATTENTION_THREADS, 1, 1);
}

PSI_API i32 psi_attention(void* y, const void* q, const void* k_cache, const void* v_cache, const void* page_table, const void* token_sequence,
                          const void* token_position, const void* sinks, void* scratch, i32 tokens, i32 q_stride, i32 q_offset, i32 heads, i32 kv_heads, i32 head_dim,
                          i32 page_size, i32 max_pages, i32 window, i32 cache_type, f32 scale, f32 softcap, f64 scratch_bytes) {
  PSI_TRY(PSI_CHECK_POINTERS("psi_attention", y, q, k_cache, v_cache, page_table, token_sequence, token_position));
  PSI_TRY(psi_check_cache("psi_attention", tokens, kv_heads, head_dim, page_size, max_pages, cache_type));
  if (heads < 1 || heads % kv_heads) return psi_fail(PSI_INVALID, "[psi_attention] expected heads in multiples of %d, got %d.", kv_heads, heads);
  if (q_offset < 0 || (i64)q_offset + (i64)heads * head_dim > q_stride)
    return psi_fail(PSI_INVALID, "[psi_attention] expected %d heads of %d inside rows of %d, got them at %d.", heads, head_dim, q_stride, q_offset);
  if (window < 0 || !(softcap >= 0)) return psi_fail(PSI_INVALID, "[psi_attention] expected a window and a cap of at least 0, got %d and %g.", window, (double)softcap);
  if (tokens == 0) return PSI_OK;
  const i32 blocks = tokens < ATTENTION_MANY ? 1 : 4, rows = 8 * blocks, group = heads / kv_heads, rows_heads = group < rows ? group : rows;
  const i32 rows_tokens = blocks == 1 ? 1 : rows / rows_heads, tiles = (i32)PSI_DIVIDE_UP((i64)max_pages * page_size, ATTENTION_TILE);
  const i64 groups_x = (i64)kv_heads * PSI_DIVIDE_UP(group, rows_heads), groups_y = PSI_DIVIDE_UP(tokens, rows_tokens);
  const i32 splits = tokens <= SPLIT_TOKENS ? splits_of(groups_x * groups_y, tiles, window) : 1;
  const f64 parts_bytes = splits > 1 ? 4.0 * tokens * heads * tiles * (head_dim + 2) : 0;
  if (splits > 1) PSI_TRY(psi_check_scratch("psi_attention", scratch, scratch_bytes, parts_bytes));
  char name[24];
  snprintf(name, sizeof name, "attention_%d_%d", blocks, head_dim <= 64 ? 2 : head_dim <= 128 ? 4 : head_dim <= 256 ? 8 : 16);
  PsiLaunch l = psi_kernel("attention", name);
  psi_constant_int(&l, 0, cache_type);
  psi_constant_bool(&l, 1, sinks != NULL);
  psi_constant_bool(&l, 2, splits > 1);
  psi_write(&l, 0, y, 4.0 * tokens * heads * head_dim);
  psi_read(&l, 1, q, 4.0 * tokens * q_stride);
  psi_read(&l, 2, k_cache, psi_bytes_after(k_cache));
  psi_read(&l, 3, v_cache, psi_bytes_after(v_cache));
  psi_read(&l, 4, page_table, psi_bytes_after(page_table));
  psi_read(&l, 5, token_sequence, 4.0 * tokens);
  psi_read(&l, 6, token_position, 4.0 * tokens);
  psi_read(&l, 7, sinks, sinks ? 4.0 * heads : 0);
  AttentionParams p = {psi_cache_params(tokens, kv_heads, head_dim, page_size, max_pages, cache_type), q_stride, q_offset, heads, window, rows_heads, rows_tokens,
                             0, splits, tiles, scale, softcap};
  psi_write(&l, 9, splits > 1 ? scratch : NULL, parts_bytes);
  const f64 positions = window > 0 && window < tiles * ATTENTION_TILE ? window + ATTENTION_TILE : (f64)tiles * ATTENTION_TILE;
  l.work = 2.0 * rows / ATTENTION_THREADS * positions * head_dim / splits;
  const f64 row_work = l.work * ATTENTION_THREADS * (f64)groups_x * splits;
  const i64 at_once = row_work * (f64)groups_y > PSI_MOST_WORK && row_work < PSI_MOST_WORK ? (i64)(PSI_MOST_WORK / row_work) : row_work < PSI_MOST_WORK ? groups_y : 1;
  for (i64 from = 0; from < groups_y; from += at_once) {
    p.first_group = (i32)from;
    psi_params(&l, 8, &p, sizeof p);
    PSI_TRY(psi_launch(&l, groups_x, groups_y - from < at_once ? groups_y - from : at_once, splits, ATTENTION_THREADS, 1, 1));
  }
  p.first_group = 0;
  return splits > 1 ? launch_combine(y, scratch, parts_bytes, token_sequence, token_position, sinks, cache_type, &p) : PSI_OK;
}
