/* Reading single rows of weights; used by more than one op. */
#pragma once
#include "../common/isa.h"

/* y f32 [columns] from one row in file layout; any type but F64. Defined in dequantize.cpp. */
PSI_KERNEL(dequantize_row, float* y, const u8* x, i64 columns, i32 dtype)
/* y f32 [columns] from row `row` of a packed matrix, equal to dequantize_row of the same weights. In embedding.cpp. */
PSI_KERNEL(packed_row, float* y, const u8* packed, i64 row, i64 columns, i32 dtype)
