/* The way of weights from a file or from host memory into device memory (staging.cu). */
#pragma once

namespace psi {
/* Frees the pinned and device buffers and ends the reading threads; the stream is idle. */
void close_staging();
}  // namespace psi
