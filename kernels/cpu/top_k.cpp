/*
 * The k largest of each row and their positions, descending, the lower position first on ties; NaN counts as -inf.
 * x f32 [rows, width]; values f32, ids i32 [rows, k]. One task per row: a heap of k whose root is the worst kept; 16
 * elements are skipped at a time when none beats the root.
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

void top_k(float* values, i32* ids, const float* x, i64 rows, i64 width, i64 k) {
  parallel(rows, [&](i64 r, int) {
    const float* row = x + r * width;
    float* v = values + r * k;
    i32* id = ids + r * k;
    for (i64 i = 0; i < k; i++) {
      v[i] = row[i] == row[i] ? row[i] : -INFINITY;
      id[i] = (i32)i;
    }
    for (i64 i = k / 2; i-- > 0;) sink_down(v, id, i, k);
    for (i64 i = k; i < width;) {
      if (i + 16 <= width && !(hmax(max(load(row + i), set1(-INFINITY))) > v[0])) {
        i += 16;
        continue;
      }
      for (i64 end = i + 16 < width ? i + 16 : width; i < end; i++)
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
  });
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
