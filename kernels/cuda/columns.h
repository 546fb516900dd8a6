/* Memory for partial sums of columns, one for the library, since work is in one order on one stream (columns.cuh). */
#pragma once
#include "launch.h"

namespace psi {

constexpr i64 COLUMN_PARTS = 2 << 20; /* floats */

/* On the open device; null where none is open. */
extern float* column_parts;

i32 open_columns(const char* where);
void close_columns();

}  // namespace psi
