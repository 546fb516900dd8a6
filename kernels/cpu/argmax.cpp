/*
 * ids[r] = position of the largest of x[r,:], the lowest on ties; NaN never wins (a row of NaN or -inf gives 0).
 * x f32 [rows, width], ids i32 [rows]. A task is a row, or with few wide rows a piece of one: the answer is the same.
 */
#include <math.h>

#include "../common/pool.h"
#include "../common/simd.h"

PSI_KERNEL(argmax, i32* ids, const float* x, i64 rows, i64 width)

namespace psi::PSI_ISA {

/* Largest of row[begin..end-1] and its lowest place; -inf and `begin` when nothing is above -inf. */
static void largest(const float* row, i64 begin, i64 end, float& top, i32& id) {
  constexpr int SIDE = 4;
  alignas(64) static const i32 lanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  vf best[SIDE];
  vi at[SIDE];
  unroll<SIDE>([&](auto i) PSI_LAMBDA { best[i] = set1(-INFINITY), at[i] = set1i(INT32_MAX); });
  vi place = addi(loadi(lanes), set1i((i32)begin));
  i64 k = begin;
  for (; k + 16 * SIDE <= end; k += 16 * SIDE)
    unroll<SIDE>([&](auto i) PSI_LAMBDA {
      const vf x = load(row + k + i * 16);
      const vm better = gt(x, best[i]);
      best[i] = select(better, x, best[i]);
      at[i] = select(better, place, at[i]);
      place = addi(place, set1i(16));
    });
  float values[16 * SIDE];
  i32 places[16 * SIDE];
  unroll<SIDE>([&](auto i) PSI_LAMBDA { store(values + i * 16, best[i]), storei(places + i * 16, at[i]); });
  top = -INFINITY;
  id = INT32_MAX;
  for (int i = 0; i < 16 * SIDE; i++)
    if (values[i] > top || (values[i] == top && places[i] < id)) top = values[i], id = places[i];
  for (; k < end; k++)
    if (row[k] > top) top = row[k], id = (i32)k;
  if (id == INT32_MAX) id = (i32)begin;
}

void argmax(i32* ids, const float* x, i64 rows, i64 width) {
  constexpr i64 PIECES = 64, WIDE = 16384;
  if (rows >= pool_threads() || width < WIDE) {
    parallel(rows, [&](i64 r, int) {
      float top;
      largest(x + r * width, 0, width, top, ids[r]);
    });
    return;
  }
  for (i64 r = 0; r < rows; r++) {
    float tops[PIECES];
    i32 places[PIECES];
    parallel(PIECES, [&](i64 p, int) { largest(x + r * width, width * p / PIECES, width * (p + 1) / PIECES, tops[p], places[p]); });
    i64 best = 0;
    for (i64 p = 1; p < PIECES; p++)
      if (tops[p] > tops[best]) best = p;
    ids[r] = places[best];
  }
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
PSI_API i32 psi_argmax(void* ids, const void* x, i32 rows, i32 width) {
  PSI_OPENED("psi_argmax");
  if (!ids || !x || rows < 0 || width < 1) return psi::fail(PSI_INVALID, "[psi_argmax] expected non-null pointers and a width, got %d x %d.", rows, width);
  PSI_RUN(argmax)((i32*)ids, (const float*)x, rows, width);
  return PSI_OK;
}

PSI_API i32 psi_argmax_ref(void* ids, const void* x, i32 rows, i32 width) {
  for (i64 r = 0; r < rows; r++) {
    const float* row = (const float*)x + r * width;
    i32 best = 0;
    float top = -INFINITY;
    for (i32 i = 0; i < width; i++)
      if (row[i] > top) {
        top = row[i];
        best = i;
      }
    ((i32*)ids)[r] = best;
  }
  return PSI_OK;
}
#endif
