/* The calling thread's last failure text. */
#include "status.h"

#include <stdarg.h>
#include <stdio.h>

namespace psi {

static thread_local char text[512];

i32 fail(i32 status, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  return status;
}

const char* last_error() { return text; }

}  // namespace psi
