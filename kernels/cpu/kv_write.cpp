/*
 * Writes the keys and values of T tokens into their pages: k row t at k + t*k_stride + k_offset, [kv_heads][head_dim],
 * v likewise; layout and types of the cache in ffi/psionic.h. q8_0: per 32 elements along the head d = amax/127, stored
 * as f16, elements rounded half away from zero with the f32 d. fp8: kernels/common/fp8.h. One task per token and kv head.
 */
#include <math.h>

#include "../common/cache.h"
#include "../common/pool.h"

namespace psi {
struct KvWrite {
  u8 *k_cache, *v_cache;
  const float *k, *v;
  const i32 *page_table, *token_sequence, *token_position;
  i64 tokens, k_stride, k_offset, v_stride, v_offset;
  CacheShape shape;
  i32 cache_type;
};
}  // namespace psi

PSI_KERNEL(kv_write, const KvWrite& a)

namespace psi::PSI_ISA {

/* 16 elements as the cache type. */
PSI_INLINE void convert(u8* p, vf x, i32 type) {
  if (type == F32) store((float*)p, x);
  else if (type == F16) store_f16(p, x);
  else if (type == BF16) store_bf16(p, x);
  else {
    float values[16];
    store(values, x);
    for (int i = 0; i < 16; i++) p[i] = f32_to_e4m3(values[i]);
  }
}

/* Nearest integer, halves away from zero. */
PSI_INLINE vf round_away(vf x) {
  const vf near = round(x), off = x - near, half = set1(0.5f), one = set1(1.0f);
  const vf up = select(eq(off, half), near + one, near), down = select(eq(zero() - off, half), near - one, near);
  return select(gt(x, zero()), up, down);
}

/* 32 elements x to int8 q and their scale to `scale`. */
static void quantize(u8* q, u8* scale, const float* x) {
  const vf a = load(x), b = load(x + 16);
  const float d = hmax(max(abs(a), max(abs(b), zero()))) / 127.0f;
  const u16 half = f32_to_f16(d);
  memcpy(scale, &half, 2);
  store_s8(q, d > 0 ? cvt_round(round_away(a / set1(d))) : zeroi());
  store_s8(q + 16, d > 0 ? cvt_round(round_away(b / set1(d))) : zeroi());
}

/* `count` elements of SIZE bytes to places 16 elements apart: one column of a key tile. */
template <int SIZE>
PSI_INLINE void scatter(u8* p, const u8* elements, int count) {
  for (int i = 0; i < count; i++) memcpy(p + i * 16 * SIZE, elements + i * SIZE, SIZE);
}

static void write_head(const KvWrite& a, i64 t, i64 h) {
  const CacheShape& s = a.shape;
  const i64 position = a.token_position[t], slot = position % s.page_size, tile = slot / 16, lane = slot % 16;
  const i64 page = a.page_table[a.token_sequence[t] * s.max_pages + position / s.page_size];
  const float* k = a.k + t * a.k_stride + a.k_offset + h * s.head_dim;
  const float* v = a.v + t * a.v_stride + a.v_offset + h * s.head_dim;
  u8 *key_page = a.k_cache + page * s.page_bytes, *value_page = a.v_cache + page * s.page_bytes;
  const i64 tile_index = h * (s.page_size / 16) + tile, key_at = tile_index * s.head_dim * 16 + lane;
  const i64 value_at = (h * s.page_size + slot) * s.head_dim;
  u8 column[64];
  if (a.cache_type == Q8_0) {
    const i64 blocks = s.head_dim / 32;
    for (i64 b = 0; b < blocks; b++) {
      quantize(column, key_page + s.scales_at + ((tile_index * blocks + b) * 16 + lane) * 2, k + b * 32);
      scatter<1>(key_page + key_at + b * 512, column, 32);
      quantize(value_page + value_at + b * 32, value_page + s.scales_at + ((h * s.page_size + slot) * blocks + b) * 2, v + b * 32);
    }
    return;
  }
  const i64 size = cache_element_bytes(a.cache_type);
  for (i64 d = 0; d < s.head_dim; d += 16) {
    convert(column, load(k + d), a.cache_type);
    if (size == 4) scatter<4>(key_page + (key_at + d * 16) * 4, column, 16);
    else if (size == 2) scatter<2>(key_page + (key_at + d * 16) * 2, column, 16);
    else scatter<1>(key_page + key_at + d * 16, column, 16);
    convert(value_page + (value_at + d) * size, load(v + d), a.cache_type);
  }
}

void kv_write(const KvWrite& a) {
  parallel(a.tokens * a.shape.kv_heads, [&](i64 task, int) { write_head(a, task / a.shape.kv_heads, task % a.shape.kv_heads); });
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
static i32 check_kv_write(const char* where, const psi::KvWrite& a) {
  if (!a.k_cache || !a.v_cache || !a.k || !a.v || !a.page_table || !a.token_sequence || !a.token_position)
    return psi::fail(PSI_INVALID, "[%s] expected non-null pointers.", where);
  const psi::CacheShape& s = a.shape;
  i32 status = psi::check_cache(where, (i32)a.tokens, (i32)s.kv_heads, (i32)s.head_dim, (i32)s.page_size, (i32)s.max_pages, a.cache_type);
  if (status != PSI_OK) return status;
  const i64 width = s.kv_heads * s.head_dim;
  if (a.k_offset < 0 || a.v_offset < 0 || a.k_offset + width > a.k_stride || a.v_offset + width > a.v_stride)
    return psi::fail(PSI_INVALID, "[%s] expected %lld elements inside rows of %lld and %lld.", where, (long long)width, (long long)a.k_stride, (long long)a.v_stride);
  for (i64 t = 0; t < a.tokens; t++) {
    const i64 position = a.token_position[t];
    if (a.token_sequence[t] < 0 || position < 0 || position >= s.max_pages * s.page_size)
      return psi::fail(PSI_INVALID, "[%s] expected a position below %lld, got %lld of token %lld.", where, (long long)(s.max_pages * s.page_size), (long long)position, (long long)t);
    if (a.page_table[a.token_sequence[t] * s.max_pages + position / s.page_size] < 0)
      return psi::fail(PSI_INVALID, "[%s] expected a page for position %lld of token %lld, got none.", where, (long long)position, (long long)t);
  }
  return PSI_OK;
}

#define PSI_KV_ARGUMENTS void *k_cache, void *v_cache, const void *k, const void *v, const void *page_table, const void *token_sequence, const void *token_position, i32 tokens, i32 k_stride, i32 k_offset, i32 v_stride, i32 v_offset, i32 kv_heads, i32 head_dim, i32 page_size, i32 max_pages, i32 cache_type
#define PSI_KV_STRUCT                                                                                                          \
  {(u8*)k_cache, (u8*)v_cache, (const float*)k, (const float*)v, (const i32*)page_table, (const i32*)token_sequence,           \
   (const i32*)token_position, tokens, k_stride, k_offset, v_stride, v_offset,                                                 \
   psi::cache_shape(kv_heads, head_dim, page_size, max_pages, cache_type), cache_type}

PSI_API i32 psi_kv_write(PSI_KV_ARGUMENTS) {
  PSI_OPENED("psi_kv_write");
  const psi::KvWrite a = PSI_KV_STRUCT;
  i32 status = check_kv_write("psi_kv_write", a);
  if (status != PSI_OK) return status;
  PSI_RUN(kv_write)(a);
  return PSI_OK;
}

/* Element by element, from the layout's formulas and the scalar conversions. */
static void write_reference(const psi::KvWrite& a, i64 t, i64 h, i64 d) {
  const psi::CacheShape& s = a.shape;
  const i64 position = a.token_position[t], slot = position % s.page_size, e = s.head_dim;
  const i64 page = a.page_table[a.token_sequence[t] * s.max_pages + position / s.page_size] * s.page_bytes;
  const i64 places[2] = {((h * s.page_size + slot) / 16 * e + d) * 16 + slot % 16, (h * s.page_size + slot) * e + d};
  const i64 scales[2] = {(((h * s.page_size + slot) / 16 * e + d) / 32 * 16 + slot % 16) * 2, places[1] / 32 * 2};
  const float* rows[2] = {a.k + t * a.k_stride + a.k_offset + h * e, a.v + t * a.v_stride + a.v_offset + h * e};
  u8* pages[2] = {a.k_cache + page, a.v_cache + page};
  for (int side = 0; side < 2; side++) {
    const float x = rows[side][d];
    if (a.cache_type == psi::F32) memcpy(pages[side] + places[side] * 4, &x, 4);
    else if (a.cache_type == psi::FP8) pages[side][places[side]] = psi::f32_to_e4m3(x);
    else if (a.cache_type == psi::Q8_0) {
      float amax = 0;
      for (i64 i = d / 32 * 32; i < d / 32 * 32 + 32; i++) amax = fmaxf(amax, fabsf(rows[side][i]));
      const float scale = amax / 127.0f;
      const u16 half = psi::f32_to_f16(scale);
      memcpy(pages[side] + s.scales_at + scales[side], &half, 2);
      pages[side][places[side]] = (u8)(i8)(scale > 0 ? roundf(x / scale) : 0);
    } else {
      const u16 half = a.cache_type == psi::F16 ? psi::f32_to_f16(x) : psi::f32_to_bf16(x);
      memcpy(pages[side] + places[side] * 2, &half, 2);
    }
  }
}

PSI_API i32 psi_kv_write_ref(PSI_KV_ARGUMENTS) {
  const psi::KvWrite a = PSI_KV_STRUCT;
  i32 status = check_kv_write("psi_kv_write_ref", a);
  if (status != PSI_OK) return status;
  for (i64 t = 0; t < tokens; t++)
    for (i64 h = 0; h < kv_heads; h++)
      for (i64 d = 0; d < head_dim; d++) write_reference(a, t, h, d);
  return PSI_OK;
}
#endif
