/*
 * The k largest of each row and their positions, descending, the lower position first on ties; NaN counts as -inf.
 * x f32 [rows, width]; values f32, ids i32 [rows, k]. A heap of k whose root is the worst kept; 64 elements are skipped
 * at a time when none beats the root. A task is a row; few wide rows are cut into one piece per thread, whose sorted
 * lists are merged: the order is total, so the answer is the same.
 */
#include <math.h>

#include "../common/pool.h"
#include "../common/simd.h"

PSI_KERNEL(top_k, float* values, i32* ids, const float* x, i64 rows, i64 width, i64 k)

namespace psi::PSI_ISA {

/* Whether entry a ranks below entry b. */
PSI_INLINE bool below(float va, i32 ia, float vb, i32 ib) { return va < vb || (va == vb && ia > ib); }

static void sink_down(float* v, i32* id, i64 at, i64 n) {
  for (;;) {
    i64 worst = at, left = 2 * at + 1, right = left + 1;
    if (left < n && below(v[left], id[left], v[worst], id[worst])) worst = left;
    if (right < n && below(v[right], id[right], v[worst], id[worst])) worst = right;
    if (worst == at) return;
    float value = v[at];
    i32 place = id[at];
    v[at] = v[worst];
    id[at] = id[worst];
    v[worst] = value;
    id[worst] = place;
    at = worst;
  }
}

/* The k largest of row[begin..end-1], k <= end - begin, sorted. */
static void largest(float* v, i32* id, const float* row, i64 begin, i64 end, i64 k) {
  for (i64 i = 0; i < k; i++) {
    v[i] = row[begin + i] == row[begin + i] ? row[begin + i] : -INFINITY;
    id[i] = (i32)(begin + i);
  }
  for (i64 i = k / 2; i-- > 0;) sink_down(v, id, i, k);
  for (i64 i = begin + k; i < end;) {
    if (i + 64 <= end) {
      vf top = max(load(row + i), set1(-INFINITY));
      unroll<3>([&](auto j) PSI_LAMBDA { top = max(load(row + i + 16 + j * 16), top); });
      if (!(hmax(top) > v[0])) {
        i += 64;
        continue;
      }
    }
    for (const i64 stop = i + 64 < end ? i + 64 : end; i < stop; i++)
      if (row[i] > v[0]) {
        v[0] = row[i];
        id[0] = (i32)i;
        sink_down(v, id, 0, k);
      }
  }
  for (i64 n = k; n > 1; n--) {
    float value = v[0];
    i32 place = id[0];
    v[0] = v[n - 1];
    id[0] = id[n - 1];
    v[n - 1] = value;
    id[n - 1] = place;
    sink_down(v, id, 0, n - 1);
  }
}

void top_k(float* values, i32* ids, const float* x, i64 rows, i64 width, i64 k) {
  constexpr i64 WIDE = 16384, MOST = 64;
  const i64 threads = pool_threads(), pieces = threads < MOST ? threads : MOST;
  /* Every piece holds at least k elements, and its list fits the memory of one thread. */
  if (rows >= threads || width < WIDE * pieces || width / pieces < k || k * 8 > THREAD_SCRATCH) {
    parallel(rows, [&](i64 r, int) { largest(values + r * k, ids + r * k, x + r * width, 0, width, k); });
    return;
  }
  for (i64 r = 0; r < rows; r++) {
    parallel(pieces, [&](i64 p, int) {
      float* v = (float*)thread_scratch((int)p);
      largest(v, (i32*)(v + k), x + r * width, width * p / pieces, width * (p + 1) / pieces, k);
    });
    i64 next[MOST] = {0};
    for (i64 j = 0; j < k; j++) {
      i64 best = -1;
      float value = 0;
      for (i64 p = 0; p < pieces; p++) {
        const float* v = (const float*)thread_scratch((int)p);
        if (next[p] < k && (best < 0 || v[next[p]] > value)) best = p, value = v[next[p]];
      }
      const float* v = (const float*)thread_scratch((int)best);
      values[r * k + j] = value;
      ids[r * k + j] = ((const i32*)(v + k))[next[best]++];
    }
  }
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
static i32 check_top_k(const void* values, const void* ids, const void* x, i32 rows, i32 width, i32 k) {
  if (!values || !ids || !x || rows < 0 || k < 1 || k > width)
    return psi::fail(PSI_INVALID, "[psi_top_k] expected non-null pointers and k from 1 to the width %d, got %d.", width, k);
  return PSI_OK;
}

PSI_API i32 psi_top_k(void* values, void* ids, const void* x, i32 rows, i32 width, i32 k) {
  PSI_OPENED("psi_top_k");
  i32 status = check_top_k(values, ids, x, rows, width, k);
  if (status != PSI_OK) return status;
  PSI_RUN(top_k)((float*)values, (i32*)ids, (const float*)x, rows, width, k);
  return PSI_OK;
}

/* k times: the best that ranks below the one before. */
PSI_API i32 psi_top_k_ref(void* values, void* ids, const void* x, i32 rows, i32 width, i32 k) {
  i32 status = check_top_k(values, ids, x, rows, width, k);
  if (status != PSI_OK) return status;
  for (i64 r = 0; r < rows; r++) {
    const float* row = (const float*)x + r * width;
    float last = INFINITY;
    i32 last_id = -1;
    for (i32 j = 0; j < k; j++) {
      i32 best = -1;
      float top = -INFINITY;
      for (i32 i = 0; i < width; i++) {
        float value = row[i] == row[i] ? row[i] : -INFINITY;
        bool after = value < last || (value == last && i > last_id);
        if (after && (best < 0 || value > top)) {
          best = i;
          top = value;
        }
      }
      ((float*)values)[r * k + j] = last = top;
      ((i32*)ids)[r * k + j] = last_id = best;
    }
  }
  return PSI_OK;
}
#endif
