/*
 * y[r] = log(sum(exp(x[r,:]))): x f32 [rows, width], y f32 [rows]. The maximum is taken out first. A row is cut into at
 * most 64 spans by its width alone; sums are f32 over 1024 elements, f64 over a span and over the spans in order. A task
 * is a row, or with few wide rows a span.
 */
#include <math.h>

#include "../common/pool.h"
#include "../common/simd.h"

PSI_KERNEL(log_sum_exp, float* y, const float* x, i64 rows, i64 width)

namespace psi::PSI_ISA {

constexpr i64 PIECE = 1024, SPANS = 64;

/* The largest of n elements that is not NaN. */
static float largest(const float* x, i64 n) {
  vf best = set1(-INFINITY);
  i64 k = 0;
  for (; k + 16 <= n; k += 16) best = max(load(x + k), best);
  float top = hmax(best);
  for (; k < n; k++)
    if (x[k] > top) top = x[k];
  return top;
}

/* Sum of exp(x - top); NaN if an element is. */
static double sum_of(const float* x, i64 n, float top) {
  double total = 0;
  for (i64 begin = 0; begin < n; begin += PIECE) {
    const i64 end = begin + PIECE < n ? begin + PIECE : n;
    vf sum = zero();
    i64 k = begin;
    for (; k + 16 <= end; k += 16) sum = sum + exp(load(x + k) - set1(top));
    total += hsum(sum);
    for (; k < end; k++) total += ::exp((double)x[k] - top);
  }
  return total;
}

void log_sum_exp(float* y, const float* x, i64 rows, i64 width) {
  const i64 span = (width + PIECE * SPANS - 1) / (PIECE * SPANS) * PIECE, spans = (width + span - 1) / span;
  /* Runs in place inside a parallel loop, over the threads outside of one. */
  auto row = [&](i64 r) {
    float tops[SPANS];
    double sums[SPANS], total = 0;
    auto length = [&](i64 s) { return (s + 1) * span < width ? span : width - s * span; };
    parallel(spans, [&](i64 s, int) { tops[s] = largest(x + r * width + s * span, length(s)); });
    float top = tops[0];
    for (i64 s = 1; s < spans; s++) top = tops[s] > top ? tops[s] : top;
    /* All -inf: keep -inf - top from being NaN. An infinite maximum is its own sum. */
    const float shift = top == -INFINITY || top == INFINITY ? 0.0f : top;
    parallel(spans, [&](i64 s, int) { sums[s] = sum_of(x + r * width + s * span, length(s), shift); });
    for (i64 s = 0; s < spans; s++) total += sums[s];
    y[r] = (float)((double)shift + ::log(total));
  };
  if (rows >= pool_threads() || spans < 8) parallel(rows, [&](i64 r, int) { row(r); });
  else
    for (i64 r = 0; r < rows; r++) row(r);
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
PSI_API i32 psi_log_sum_exp(void* y, const void* x, i32 rows, i32 width) {
  PSI_OPENED("psi_log_sum_exp");
  if (!y || !x || rows < 0 || width < 1) return psi::fail(PSI_INVALID, "[psi_log_sum_exp] expected non-null pointers and a width, got %d x %d.", rows, width);
  PSI_RUN(log_sum_exp)((float*)y, (const float*)x, rows, width);
  return PSI_OK;
}

PSI_API i32 psi_log_sum_exp_ref(void* y, const void* x, i32 rows, i32 width) {
  for (i64 r = 0; r < rows; r++) {
    const float* row = (const float*)x + r * width;
    double top = -INFINITY, sum = 0;
    for (i64 i = 0; i < width; i++) top = row[i] > top ? row[i] : top;
    const double shift = isinf(top) ? 0 : top;
    for (i64 i = 0; i < width; i++) sum += exp(row[i] - shift);
    ((float*)y)[r] = (float)(shift + log(sum));
  }
  return PSI_OK;
}
#endif
