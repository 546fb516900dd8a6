/*
 * How the results of tiles become a row's: m the highest score, l the sum of exp(score - m), out the values weighted so. Tiles are
 * folded in rising order; a tile in which a row sees nothing (m = -infinity) changes nothing of it. The sink comes last. One place for
 * the kernel that folds as it goes and for the one that folds what others left.
 */
#pragma once
#include <metal_stdlib>
using namespace metal;

/* exp(from - to), to >= from, neither NaN. */
static inline float fold_factor(float from, float to) { return from == -INFINITY ? 0.0f : from == to ? 1.0f : precise::exp(from - to); }
/* `kept` and `added`: factors of what was and of the tile. */
static inline float fold(float before, float tile, float kept, float added) { return added == 0.0f ? before * kept : fma(tile, added, before * kept); }
/* Sums fold alike, but what is no number stays none. */
static inline float fold_sum(float before, float tile, float kept, float added) { return fma(tile, added, before * kept); }
/* An element of the result. */
static inline float folded(float out, float m, float l, bool has_sink, float sink) {
  const float whole = has_sink ? fmax(m, sink) : m;
  const float factor = fold_factor(m, whole);
  float total = l * factor;
  if (has_sink && sink != -INFINITY) total = total + precise::exp(sink - whole);
  return out * factor / total;
}
