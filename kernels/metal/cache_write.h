/* A piece of a head on its way into the cache (cache.h). */
#pragma once
#include "cache.h"

/* `count` elements, from element `at` of a page on; with q8_0 a block of 32: scale = largest / 127, codes rounded half away from zero. */
template <typename P>
static inline void write_piece(int type, device uchar* page, uint at, P x, int count, int scales_at) {
  if (type == PSI_Q8_0) {
    float largest = 0.0f;
    for (int i = 0; i < count; i++) largest = fmax(largest, fabs(x[i]));
    const float scale = largest / 127.0f;
    *(device half*)(page + uint(scales_at) + at / 32 * 2) = half(scale);
    for (int i = 0; i < count; i++) page[at + uint(i)] = uchar(char(scale > 0.0f ? int(round(x[i] / scale)) : 0));
    return;
  }
  for (int i = 0; i < count; i++) {
    const uint to = at + uint(i);
    if (type == PSI_F32) *(device float*)(page + 4 * to) = x[i];
    else if (type == PSI_F16) *(device half*)(page + 2 * to) = half(x[i]);
    else *(device ushort*)(page + 2 * to) = ushort(bf16_bits(x[i]));
  }
}
