/*
 * The cache's own type, beside those that ffi/psionic.h names under "Paged cache": e4m3, an element a byte in the same
 * places, without scales; nearest even, sizes above 448 become 448, NaN stays NaN. CUDA and the CPU have it, Metal not.
 */
#pragma once
#include "types.h"

namespace psi {

/* Its dtype: psionic's own number, of no file (src/core/dtype.ts). */
constexpr i32 FP8 = 200;

}  // namespace psi
