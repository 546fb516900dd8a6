/* What the plain-loop references of matmul and moe_matmul share: weight rows as f64, and one dot product in f64. */
#pragma once
#include <stdlib.h>

#include "rows.h"

namespace psi {

/* Calls body(n, row) for every row n of a weight [outputs, columns], in file layout or packed, with row f64 [columns]. */
template <class F>
static void reference_rows(i64 outputs, i64 columns, i32 dtype, const u8* w, F&& body) {
  const i32 id = dtype & ~PSI_PACKED;
  const i64 bytes = row_bytes(*find_type(id), columns);
  double* row = (double*)malloc((size_t)columns * 8);
  float* values = (float*)malloc((size_t)columns * 4);
  for (i64 n = 0; row && values && n < outputs; n++) {
    if (id == F64) {
      const u8* panel = w + n / 16 * 16 * bytes;
      for (i64 k = 0; k < columns; k++) {
        const u8* at = dtype & PSI_PACKED ? panel + (k * 16 + n % 16) * 8 : w + n * bytes + k * 8;
        memcpy(&row[k], at, 8);
      }
    } else {
      if (dtype & PSI_PACKED) plain::packed_row(values, w, n, columns, id);
      else plain::dequantize_row(values, w + n * bytes, columns, id);
      for (i64 k = 0; k < columns; k++) row[k] = values[k];
    }
    body(n, row);
  }
  free(row);
  free(values);
}

/* y[place] = x[input,:] . row (+ bias[n]), summed in f64; elements of x, y, bias are f64 for F64 weights, else f32. */
static inline void reference_dot(void* y, i64 place, const void* x, i64 input, const double* row, i64 columns, const void* bias, i64 n, i32 dtype) {
  double sum = 0;
  if ((dtype & ~PSI_PACKED) == F64) {
    const double* in = (const double*)x + input * columns;
    for (i64 k = 0; k < columns; k++) sum += in[k] * row[k];
    ((double*)y)[place] = bias ? sum + ((const double*)bias)[n] : sum;
  } else {
    const float* in = (const float*)x + input * columns;
    for (i64 k = 0; k < columns; k++) sum += (double)in[k] * row[k];
    ((float*)y)[place] = (float)(bias ? sum + ((const float*)bias)[n] : sum);
  }
}

}  // namespace psi
