/* Arranging weights on the device (pack.cu). */
#pragma once
#include "launch.h"

namespace psi {
/* Raw rows in file layout, in device memory, to the layout of weights.cuh; enqueued on `stream`. */
i32 pack_on_device(void* destination, const void* raw, i32 rows, i32 columns, i32 dtype);
}  // namespace psi
