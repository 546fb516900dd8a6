/* The weight types: ids (ggml's), block sizes, lookup tables, and the size of a panel. */
#pragma once
#include "isa.h"

namespace psi {

enum TypeId : i32 {
  F32 = 0, F16 = 1, Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q2_K = 10, Q3_K = 11, Q4_K = 12, Q5_K = 13,
  Q6_K = 14, IQ4_NL = 20, IQ4_XS = 23, F64 = 28, BF16 = 30, MXFP4 = 39,
};

struct TypeInfo {
  i32 id;
  const char* name;
  i32 block;       /* elements of a block */
  i32 block_bytes; /* bytes of a block in a file */
};

constexpr TypeInfo TYPES[] = {
    {F32, "F32", 1, 4},        {F16, "F16", 1, 2},        {Q4_0, "Q4_0", 32, 18},      {Q4_1, "Q4_1", 32, 20},
    {Q5_0, "Q5_0", 32, 22},    {Q5_1, "Q5_1", 32, 24},    {Q8_0, "Q8_0", 32, 34},      {Q2_K, "Q2_K", 256, 84},
    {Q3_K, "Q3_K", 256, 110},  {Q4_K, "Q4_K", 256, 144},  {Q5_K, "Q5_K", 256, 176},    {Q6_K, "Q6_K", 256, 210},
    {IQ4_NL, "IQ4_NL", 32, 18}, {IQ4_XS, "IQ4_XS", 256, 136}, {F64, "F64", 1, 8},      {BF16, "BF16", 1, 2},
    {MXFP4, "MXFP4", 32, 17},
};

/* Null when the id is unknown; the PSI_PACKED bit is not part of an id. */
PSI_INLINE const TypeInfo* find_type(i32 id) {
  for (const TypeInfo& t : TYPES)
    if (t.id == id) return &t;
  return nullptr;
}

PSI_INLINE i64 row_bytes(const TypeInfo& t, i64 columns) { return columns / t.block * t.block_bytes; }
/* 16 rows, as many bytes as in the file, rounded up to 64 */
PSI_INLINE i64 panel_bytes(const TypeInfo& t, i64 columns) { return (16 * row_bytes(t, columns) + 63) & ~(i64)63; }
PSI_INLINE i64 panel_count(i64 rows) { return (rows + 15) / 16; }

/* IQ4_NL and IQ4_XS levels, and twice the E2M1 values of MXFP4 */
constexpr i8 IQ4_LEVELS[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
constexpr i8 FP4_LEVELS[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/* 2^(e-128), with the two smallest as subnormals */
PSI_INLINE u32 mxfp4_scale_bits(u32 e) { return e < 2 ? 0x00200000u << e : (e - 1) << 23; }

/* What a launcher says of a weight that it cannot take; PSI_OK when the type and its row length are fine. */
PSI_INLINE i32 check_weight_type(const char* where, i32 id, i64 columns, const TypeInfo** type) {
  *type = find_type(id);
  if (!*type) return fail(PSI_UNSUPPORTED, "[%s] expected a weight type of this library, got id %d.", where, id);
  if (columns % (*type)->block != 0)
    return fail(PSI_INVALID, "[%s] expected columns in multiples of %d for %s, got %lld.", where, (*type)->block, (*type)->name, (long long)columns);
  return PSI_OK;
}

}  // namespace psi
