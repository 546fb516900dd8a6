/* What products with weights share: tile-wise dequantisation. Splits and tiles: matmul.h. */
#pragma once
#include "matmul.h"
#include "weights.h"

/* Columns 16*group to 16*group + 15 of row `output` of w to threadgroup memory; zeros past the last row and column. */
template <typename W>
static inline void place_weights(threadgroup float* to, device const uchar* w, uint output, uint outputs, uint group, uint columns) {
  float v[16];
  for (uint i = 0; i < 16; i++) v[i] = 0.0f;
  if (output < outputs && 16 * group < columns) W::values(w + output * weight_row_bytes<W>(columns), group, columns, v);
  for (uint i = 0; i < 16; i++) to[i] = v[i];
}
