/* What the shim tells the stand-in beyond Metal's own calls: how far the buffer at an index may be touched. */
#pragma once
#include <stddef.h>

void standin_limit(void* encoder, unsigned index, size_t bytes);
