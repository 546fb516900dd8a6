/*
 * y[t,:] = scale * table[ids[t],:]: y f32 [tokens, width], ids i32 [tokens], table [vocabulary, width] of any type but
 * F64, in file layout or packed (dtype | PSI_PACKED). The same bits as psi_dequantize of that row, times scale.
 * Alignment: none needed. One task per token.
 */
#include "../common/panel.h"
#include "../common/pool.h"
#include "rows.h"

PSI_KERNEL(embedding, float* y, const u8* table, const i32* ids, i64 tokens, i64 width, i32 dtype, float scale)

namespace psi::PSI_ISA {

/* One of the 16 rows of a panel of block type T: all rows of a block are expanded, one is kept. */
template <class T>
static void panel_row(float* y, const u8* panel, int row, i64 blocks) {
  for (i64 b = 0; b < blocks; b++) {
    vb w[8];
    T::codes(panel, blocks, b, w);
    u8 codes[512];
    unroll<8>([&](auto i) PSI_LAMBDA { storeb(codes + 64 * i, w[i]); });
    for (int half = 0; half < T::HALVES; half++) {
      float scales[16], mins[16];
      store(scales, T::scale(panel, blocks, b, half));
      store(mins, T::min(panel, blocks, b, half));
      for (int k = half * 16; k < (half + 1) * 32 / T::HALVES; k++) {
        float product = scales[row] * (float)(codes[k / 4 * 64 + row * 4 + k % 4] - T::BIAS);
        y[b * 32 + k] = T::MINS ? product + mins[row] : product;
      }
    }
  }
}

template <class T>
static void float_panel_row(float* y, const u8* panel, int row, i64 columns) {
  for (i64 k = 0; k < columns; k++) {
    float column[16];
    store(column, T::column(panel + k * 16 * T::BYTES));
    y[k] = column[row];
  }
}

void packed_row(float* y, const u8* packed, i64 row, i64 columns, i32 dtype) {
  const u8* panel = packed + row / 16 * panel_bytes(*find_type(dtype), columns);
  int lane = (int)(row % 16);
  if (with_block_type(dtype, [&](auto type) { panel_row<decltype(type)>(y, panel, lane, columns / 32); })) return;
  with_float_type(dtype, [&](auto type) { float_panel_row<decltype(type)>(y, panel, lane, columns); });
}

void embedding(float* y, const u8* table, const i32* ids, i64 tokens, i64 width, i32 dtype, float scale) {
  const i32 id = dtype & ~PSI_PACKED;
  const i64 bytes = row_bytes(*find_type(id), width);
  parallel(tokens, [&](i64 t, int) {
    float* row = y + t * width;
    if (dtype & PSI_PACKED) packed_row(row, table, ids[t], width, id);
    else dequantize_row(row, table + ids[t] * bytes, width, id);
    for (i64 k = 0; k < width; k++) row[k] = scale * row[k];
  });
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
static i32 check_embedding(const char* where, const void* y, const void* table, const void* ids, i32 tokens, i32 width, i32 vocabulary, i32 dtype) {
  if (!y || !table || !ids) return psi::fail(PSI_INVALID, "[%s] expected non-null pointers.", where);
  if (tokens < 0 || width < 1 || vocabulary < 1)
    return psi::fail(PSI_INVALID, "[%s] expected tokens >= 0, width >= 1, vocabulary >= 1, got %d, %d, %d.", where, tokens, width, vocabulary);
  const psi::TypeInfo* type;
  i32 status = psi::check_weight_type(where, dtype & ~PSI_PACKED, width, &type);
  if (status != PSI_OK) return status;
  if (type->id == psi::F64) return psi::fail(PSI_UNSUPPORTED, "[%s] expected a table of another type than F64.", where);
  for (i32 t = 0; t < tokens; t++) {
    i32 id = ((const i32*)ids)[t];
    if (id < 0 || id >= vocabulary) return psi::fail(PSI_INVALID, "[%s] expected ids from 0 to %d, got %d at %d.", where, vocabulary - 1, id, t);
  }
  return PSI_OK;
}

PSI_API i32 psi_embedding(void* y, const void* table, const void* ids, i32 tokens, i32 width, i32 vocabulary, i32 dtype, f32 scale) {
  PSI_OPENED("psi_embedding");
  i32 status = check_embedding("psi_embedding", y, table, ids, tokens, width, vocabulary, dtype);
  if (status != PSI_OK) return status;
  PSI_RUN(embedding)((float*)y, (const u8*)table, (const i32*)ids, tokens, width, dtype, scale);
  return PSI_OK;
}

PSI_API i32 psi_embedding_ref(void* y, const void* table, const void* ids, i32 tokens, i32 width, i32 vocabulary, i32 dtype, f32 scale) {
  i32 status = check_embedding("psi_embedding_ref", y, table, ids, tokens, width, vocabulary, dtype);
  if (status != PSI_OK) return status;
  const i64 bytes = psi::row_bytes(*psi::find_type(dtype & ~PSI_PACKED), width);
  for (i64 t = 0; t < tokens; t++) {
    float* row = (float*)y + t * width;
    i64 id = ((const i32*)ids)[t];
    if (dtype & PSI_PACKED) psi::plain::packed_row(row, (const u8*)table, id, width, dtype & ~PSI_PACKED);
    else psi::plain::dequantize_row(row, (const u8*)table + id * bytes, width, dtype);
    for (i64 k = 0; k < width; k++) row[k] = scale * row[k];
  }
  return PSI_OK;
}
#endif
