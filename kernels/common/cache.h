/*
 * The paged cache (ffi/psionic.h, "Paged cache"): how each element type is stored and read (namespace psi::PSI_ISA).
 * A cache type is a struct with BYTES per element, SCALED (f16 scales per 32 elements follow the page's elements), and
 * elements(p): 16 elements as f32, before any scale.
 */
#pragma once
#include "fp8.h"
#include "half.h"
#include "simd.h"
#include "types.h"

namespace psi::PSI_ISA {

struct CacheF32 {
  static constexpr int BYTES = 4;
  static constexpr bool SCALED = false;
  PSI_INLINE vf elements(const u8* p) { return psi::PSI_ISA::load((const float*)p); }
};
struct CacheF16 {
  static constexpr int BYTES = 2;
  static constexpr bool SCALED = false;
  PSI_INLINE vf elements(const u8* p) { return load_f16(p); }
};
struct CacheBF16 {
  static constexpr int BYTES = 2;
  static constexpr bool SCALED = false;
  PSI_INLINE vf elements(const u8* p) { return load_bf16(p); }
};
struct CacheFP8 {
  static constexpr int BYTES = 1;
  static constexpr bool SCALED = false;
  /* e4m3_to_f32 */
  PSI_INLINE vf elements(const u8* p) {
    const vi code = load_u8(p), size = andi(code, set1i(0x7f)), sign = shli<24>(andi(code, set1i(0x80)));
    const vf x = floats(shli<20>(size)) * set1(1.329227995784916e36f);
    return floats(ori(bits(select(eqi(size, set1i(0x7f)), floats(set1i(0x7fc00000)), x)), sign));
  }
};
struct CacheQ8 {
  static constexpr int BYTES = 1;
  static constexpr bool SCALED = true;
  PSI_INLINE vf elements(const u8* p) { return cvt(load_s8(p)); }
};

/* Calls f with the struct of a cache type; false when there is none. */
template <class F>
PSI_INLINE bool with_cache_type(i32 dtype, F&& f) {
  switch (dtype) {
    case F32: f(CacheF32()); return true;
    case F16: f(CacheF16()); return true;
    case BF16: f(CacheBF16()); return true;
    case FP8: f(CacheFP8()); return true;
    case Q8_0: f(CacheQ8()); return true;
    default: return false;
  }
}

}  // namespace psi::PSI_ISA

namespace psi {

/* Bytes of an element, scales aside. */
static inline i64 cache_element_bytes(i32 dtype) { return dtype == F32 ? 4 : dtype == Q8_0 || dtype == FP8 ? 1 : 2; }

/* The geometry both cache ops share. */
struct CacheShape {
  i64 kv_heads, head_dim, page_size, max_pages;
  /* Bytes of a page of keys or of values, and where its scales begin (q8_0). */
  i64 page_bytes, scales_at;
};

static inline CacheShape cache_shape(i64 kv_heads, i64 head_dim, i64 page_size, i64 max_pages, i32 dtype) {
  i64 elements = kv_heads * page_size * head_dim;
  i64 bytes = elements * cache_element_bytes(dtype);
  return {kv_heads, head_dim, page_size, max_pages, bytes + (dtype == Q8_0 ? elements / 32 * 2 : 0), bytes};
}

/* Status of the arguments both ops share; the table is looked at by the op. */
static inline i32 check_cache(const char* where, i32 tokens, i32 kv_heads, i32 head_dim, i32 page_size, i32 max_pages, i32 cache_type) {
  if (tokens < 0 || kv_heads < 1 || head_dim < 1 || max_pages < 1)
    return fail(PSI_INVALID, "[%s] expected positive sizes, got tokens %d, kv_heads %d, head_dim %d, max_pages %d.", where, tokens, kv_heads, head_dim, max_pages);
  if (page_size < 16 || page_size % 16) return fail(PSI_INVALID, "[%s] expected a page size that is a multiple of 16, got %d.", where, page_size);
  if (cache_type != F32 && cache_type != F16 && cache_type != BF16 && cache_type != FP8 && cache_type != Q8_0)
    return fail(PSI_UNSUPPORTED, "[%s] expected a cache of f32, f16, bf16, fp8 or q8_0, got dtype %d.", where, cache_type);
  i32 unit = cache_type == Q8_0 ? 32 : 16;
  if (head_dim % unit || head_dim > 512)
    return fail(PSI_UNSUPPORTED, "[%s] expected a head width that is a multiple of %d up to 512, got %d.", where, unit, head_dim);
  return PSI_OK;
}

}  // namespace psi
