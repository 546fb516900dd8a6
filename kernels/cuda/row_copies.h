/* Copies of rows between pinned memory and the device (row_copies.cu). */
#pragma once

namespace psi {
/* Frees the pinned memory, that of psi_host_alloc too; the stream is idle. */
void close_rows();
}  // namespace psi
