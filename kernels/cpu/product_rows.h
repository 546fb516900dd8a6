/* Where a product's rows lie and how they are written (namespace psi::PSI_ISA). */
#pragma once
#include "../common/simd.h"
#include "product.h"

namespace psi::PSI_ISA {

constexpr i64 ROW_CHUNK = 128;  /* rows whose accumulators are kept at a time */
constexpr i64 PIECE = 16;       /* blocks of 32 columns expanded at a time; inputs lie piece by piece */
constexpr i64 PANEL_GROUP = 16; /* panels whose accumulators are kept at a time */

/* The blocks of input row `row` in the piece that starts at block `first`. */
PSI_INLINE i64 input_place(i64 rows, i64 blocks, i64 row, i64 first) {
  const i64 count = blocks - first < PIECE ? blocks - first : PIECE;
  return first * rows + row * count;
}

PSI_INLINE i64 slot_of(const ProductTask& t, i64 i) { return t.slots ? t.slots[i] : t.first_row + i; }
PSI_INLINE i64 input_of(const ProductTask& t, i64 i) { return slot_of(t, i) / t.slots_per_input; }

/* Writes 16 accumulators of row i and one panel. */
PSI_INLINE void write_row(const ProductTask& t, i64 i, i64 panel, const float* acc) {
  const i64 n = t.outputs - panel * 16;
  float* y = t.y + slot_of(t, i) * t.outputs + panel * 16;
  vf v = load(acc);
  if (n >= 16) {
    store(y, t.bias ? v + load(t.bias + panel * 16) : v);
  } else {
    store_n(y, t.bias ? v + load_n(t.bias + panel * 16, (int)n) : v, (int)n);
  }
}

/* Rows of A parts up to which codes are best expanded in registers, as measured: with wide registers the other way is so
   fast that it wins early where scales and mins are cut from shared records. */
template <class T, int A>
constexpr int direct_rows() {
  constexpr int most = DIRECT_PANELS < 4 || T::COLUMNS == 32 || T::ID == Q2_K ? DIRECT_ROWS : T::MINS ? 1 : 3;
  return most / A > 0 ? most / A : 1;
}

}  // namespace psi::PSI_ISA
