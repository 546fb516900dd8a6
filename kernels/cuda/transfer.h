/* Small copies between host and device through pinned memory (transfer.cu): none waits for the work before it. */
#pragma once
#include <stddef.h>

#include "launch.h"

namespace psi {
/* A step is being captured: no copy to or from the host, no allocation. */
extern bool capturing;
/* Whether an upload of so many bytes goes through the pinned ring. */
bool sent_pinned(size_t bytes);
/* Copies to the device behind what is enqueued; `source` may change as soon as this returns. */
i32 send_pinned(const char* where, void* destination, const void* source, size_t bytes);
/* Copies within the device behind what is enqueued. */
i32 copy_words(const char* where, void* destination, const void* source, size_t bytes);
/* Frees the pinned memory; the stream is idle. */
void close_transfers();
}  // namespace psi
