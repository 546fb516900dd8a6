/*
 * Register-tiled products over packed float weights (formula: product.h; layout: common/panel.h).
 */
#include "../common/panel.h"
#include "../common/pool.h"
#include "product_rows.h"

namespace psi::PSI_ISA {

constexpr i64 FLOAT_PIECE = 512; /* columns per pass over the rows */

template <class T, int P, int R>
static void float_tile(const u8* const* w, i64 count, const float* const* x, float* acc) {
  vf total[P][R];
  unroll<R>([&](auto r) PSI_LAMBDA { unroll<P>([&](auto p) PSI_LAMBDA { total[p][r] = load(acc + (r * P + p) * 16); }); });
  for (i64 k = 0; k < count; k++) {
    vf column[P];
    unroll<P>([&](auto p) PSI_LAMBDA { column[p] = T::column(w[p] + k * (16 * T::BYTES)); });
    unroll<R>([&](auto r) PSI_LAMBDA {
      vf in = set1(x[r][k]);
      unroll<P>([&](auto p) PSI_LAMBDA { total[p][r] = fma(column[p], in, total[p][r]); });
    });
  }
  unroll<R>([&](auto r) PSI_LAMBDA { unroll<P>([&](auto p) PSI_LAMBDA { store(acc + (r * P + p) * 16, total[p][r]); }); });
}

template <class T, int P, int MAX_R>
static void float_tile_rows(const u8* const* w, i64 count, const float* const* x, float* acc, int rows) {
  if (rows == MAX_R) return float_tile<T, P, MAX_R>(w, count, x, acc);
  if constexpr (MAX_R > 1) float_tile_rows<T, P, MAX_R - 1>(w, count, x, acc, rows);
}

template <class T, int P>
static void float_rows(const ProductTask& t, i64 size, i64 panel, i64 from, i64 rows) {
  static_assert(ROW_CHUNK * FLOAT_PANELS * 64 <= THREAD_SCRATCH, "scratch too small");
  float* acc = (float*)t.scratch;
  memset(acc, 0, (size_t)(rows * P * 64));
  for (i64 first = 0; first < t.columns; first += FLOAT_PIECE) {
    const i64 count = t.columns - first < FLOAT_PIECE ? t.columns - first : FLOAT_PIECE;
    const u8* w[P];
    for (int p = 0; p < P; p++) w[p] = t.panels + (panel + p) * size + first * 16 * T::BYTES;
    for (i64 i = 0; i < rows; i += FLOAT_ROWS) {
      const int n = (int)(rows - i < FLOAT_ROWS ? rows - i : FLOAT_ROWS);
      const float* x[FLOAT_ROWS] = {};
      for (int r = 0; r < n; r++) x[r] = t.x + slot_of(t, from + i + r) / t.slots_per_input * t.columns + first;
      float_tile_rows<T, P, FLOAT_ROWS>(w, count, x, acc + i * P * 16, n);
    }
  }
  for (i64 i = 0; i < rows; i++)
    for (int p = 0; p < P; p++) write_row(t, from + i, panel + p, acc + (i * P + p) * 16);
}

template <class T>
static void all_rows(const ProductTask& t, i64 size) {
  const i64 last = t.first_panel + t.panel_count;
  for (i64 from = 0; from < t.rows; from += ROW_CHUNK) {
    const i64 rows = t.rows - from < ROW_CHUNK ? t.rows - from : ROW_CHUNK;
    i64 p = t.first_panel;
    for (; p + FLOAT_PANELS <= last; p += FLOAT_PANELS) float_rows<T, FLOAT_PANELS>(t, size, p, from, rows);
    for (; p < last; p++) float_rows<T, 1>(t, size, p, from, rows);
  }
}

void float_product(const ProductTask& t) {
  const i64 size = panel_bytes(*find_type(t.dtype), t.columns);
  with_float_type(t.dtype, [&](auto type) { all_rows<decltype(type)>(t, size); });
}

}  // namespace psi::PSI_ISA
