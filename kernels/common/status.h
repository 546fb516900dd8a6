/*
 * Failure texts. `return psi::fail(PSI_INVALID, "[psi_op] expected X, got %d.", got);` stores the text for
 * psi_last_error() of the calling thread and returns the status. Call it from launchers, not from pool tasks.
 */
#pragma once
#include "../../ffi/psionic.h"

namespace psi {
__attribute__((format(printf, 2, 3))) i32 fail(i32 status, const char* format, ...);
const char* last_error();
}  // namespace psi
