/*
 * norm: y = (x - mean) * scale * w + b with scale = 1/sqrt(var + eps), or the RMS norm when not `center`. stats [rows,2]
 * keeps mean and scale. norm_grad, with n = (x - mean) * scale and g = dy * w:
 *   dx = scale * (g - mean(g) [center only] - n * mean(g * n));   dw += sum over rows of dy * n;   db += sum of dy.
 * Sums over a row in 16 f32 lanes and one fixed tree; dw and db over rows ascending, a task being 16 columns.
 */
#include <math.h>

#include "../common/pool.h"
#include "../common/simd.h"
#include "train.h"

PSI_KERNEL(norm_forward, float* y, float* stats, const float* x, const float* w, const float* b, i64 rows, i64 width, bool center, float eps)
PSI_KERNEL(norm_backward, float* dx, float* dw, float* db, const float* dy, const float* x, const float* w, const float* stats, i64 rows, i64 width, bool center, bool add)

namespace psi::PSI_ISA {

/* f(k, lanes) over a row in vectors */
template <class F>
PSI_INLINE void each(i64 width, F&& f) {
  for (i64 k = 0; k < width; k += 16) f(k, (int)(width - k < 16 ? width - k : 16));
}

void norm_forward(float* y, float* stats, const float* x, const float* w, const float* b, i64 rows, i64 width, bool center, float eps) {
  parallel(rows, [&](i64 r, int) {
    const float* in = x + r * width;
    float mean = 0;
    if (center) {
      vf sum = zero();
      each(width, [&](i64 k, int n) PSI_LAMBDA { sum = sum + load_n(in + k, n); });
      mean = hsum(sum) / (float)width;
    }
    vf squares = zero();
    each(width, [&](i64 k, int n) PSI_LAMBDA {
      vf d = load_n(in + k, n) - set1(mean);
      if (n < 16) { /* lanes beyond the row hold -mean */
        float lanes[16];
        store(lanes, d);
        d = load_n(lanes, n);
      }
      squares = fma(d, d, squares);
    });
    const float scale = 1.0f / sqrtf(hsum(squares) / (float)width + eps);
    stats[2 * r] = mean;
    stats[2 * r + 1] = scale;
    each(width, [&](i64 k, int n) PSI_LAMBDA {
      vf v = (load_n(in + k, n) - set1(mean)) * set1(scale);
      if (w) v = v * load_n(w + k, n);
      if (b) v = v + load_n(b + k, n);
      store_n(y + r * width + k, v, n);
    });
  });
}

void norm_backward(float* dx, float* dw, float* db, const float* dy, const float* x, const float* w, const float* stats, i64 rows, i64 width, bool center, bool add) {
  parallel(rows, [&](i64 r, int) {
    const float *in = x + r * width, *up = dy + r * width;
    const vf mean = set1(stats[2 * r]), scale = set1(stats[2 * r + 1]);
    vf sum_g = zero(), sum_gn = zero();
    each(width, [&](i64 k, int n) PSI_LAMBDA {
      vf g = load_n(up + k, n);
      if (w) g = g * load_n(w + k, n);
      sum_g = sum_g + g;
      sum_gn = fma(g, (load_n(in + k, n) - mean) * scale, sum_gn);
    });
    const vf mean_g = set1(center ? hsum(sum_g) / (float)width : 0.0f), mean_gn = set1(hsum(sum_gn) / (float)width);
    each(width, [&](i64 k, int n) PSI_LAMBDA {
      vf g = load_n(up + k, n);
      if (w) g = g * load_n(w + k, n);
      const vf normed = (load_n(in + k, n) - mean) * scale;
      const vf d = scale * (g - mean_g - normed * mean_gn);
      float* at = dx + r * width + k;
      store_n(at, add ? load_n(at, n) + d : d, n);
    });
  });
  if (!dw && !db) return;
  parallel((width + 15) / 16, [&](i64 task, int) {
    const i64 k = task * 16;
    const int n = (int)(width - k < 16 ? width - k : 16);
    vf sum_w = zero(), sum_b = zero();
    for (i64 r = 0; r < rows; r++) {
      const vf g = load_n(dy + r * width + k, n);
      sum_w = fma(g, (load_n(x + r * width + k, n) - set1(stats[2 * r])) * set1(stats[2 * r + 1]), sum_w);
      sum_b = sum_b + g;
    }
    if (dw) store_n(dw + k, load_n(dw + k, n) + sum_w, n);
    if (db) store_n(db + k, load_n(db + k, n) + sum_b, n);
  });
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
template <class T>
static void plain(T* y, T* stats, const T* x, const T* w, const T* b, i64 rows, i64 width, bool center, double eps) {
  for (i64 r = 0; r < rows; r++) {
    const T* in = x + r * width;
    double mean = 0, squares = 0;
    if (center) {
      for (i64 k = 0; k < width; k++) mean += in[k];
      mean /= (double)width;
    }
    for (i64 k = 0; k < width; k++) squares += (in[k] - mean) * (in[k] - mean);
    const double scale = 1 / sqrt(squares / (double)width + eps);
    stats[2 * r] = (T)mean;
    stats[2 * r + 1] = (T)scale;
    for (i64 k = 0; k < width; k++) y[r * width + k] = (T)((in[k] - mean) * scale * (w ? w[k] : 1) + (b ? b[k] : 0));
  }
}
template <class T>
static void plain_grad(T* dx, T* dw, T* db, const T* dy, const T* x, const T* w, const T* stats, i64 rows, i64 width, bool center, bool add) {
  for (i64 r = 0; r < rows; r++) {
    const T *in = x + r * width, *up = dy + r * width;
    const double mean = stats[2 * r], scale = stats[2 * r + 1];
    double mean_g = 0, mean_gn = 0;
    for (i64 k = 0; k < width; k++) {
      const double g = (double)up[k] * (w ? w[k] : 1);
      mean_g += g / (double)width;
      mean_gn += g * (in[k] - mean) * scale / (double)width;
    }
    if (!center) mean_g = 0;
    for (i64 k = 0; k < width; k++) {
      const double g = (double)up[k] * (w ? w[k] : 1), normed = (in[k] - mean) * scale;
      const double d = scale * (g - mean_g - normed * mean_gn);
      dx[r * width + k] = (T)(add ? dx[r * width + k] + d : d);
      if (dw) dw[k] += (T)(up[k] * normed);
      if (db) db[k] += up[k];
    }
  }
}

PSI_API i32 psi_norm_ref(void* y, void* stats, const void* x, const void* w, const void* b, i32 rows, i32 width, i32 center, i32 dtype, f64 eps) {
  PSI_WITH_REAL(dtype, T, plain((T*)y, (T*)stats, (const T*)x, (const T*)w, (const T*)b, rows, width, center != 0, eps));
  return PSI_OK;
}
PSI_API i32 psi_norm_grad_ref(void* dx, void* dw, void* db, const void* dy, const void* x, const void* w, const void* stats, i32 rows, i32 width, i32 center, i32 dtype) {
  PSI_WITH_REAL(dtype, T, plain_grad((T*)dx, (T*)dw, (T*)db, (const T*)dy, (const T*)x, (const T*)w, (const T*)stats, rows, width, (center & 1) != 0, (center & 2) != 0));
  return PSI_OK;
}

PSI_API i32 psi_norm(void* y, void* stats, const void* x, const void* w, const void* b, i32 rows, i32 width, i32 center, i32 dtype, f64 eps) {
  PSI_OPENED("psi_norm");
  if (!y || !stats || !x || rows < 0 || width < 1 || !psi::is_real(dtype) || !(eps >= 0))
    return psi::fail(PSI_INVALID, "[psi_norm] expected pointers, f32 or f64, eps of at least 0 and positive sizes, got rows %d, width %d, dtype %d, eps %g.", rows, width, dtype, eps);
  if (dtype == psi::F64) return psi_norm_ref(y, stats, x, w, b, rows, width, center, dtype, eps);
  PSI_RUN(norm_forward)((float*)y, (float*)stats, (const float*)x, (const float*)w, (const float*)b, rows, width, center != 0, (float)eps);
  return PSI_OK;
}
PSI_API i32 psi_norm_grad(void* dx, void* dw, void* db, const void* dy, const void* x, const void* w, const void* stats, i32 rows, i32 width, i32 center, i32 dtype) {
  PSI_OPENED("psi_norm_grad");
  if (!dx || !dy || !x || !stats || rows < 0 || width < 1 || !psi::is_real(dtype))
    return psi::fail(PSI_INVALID, "[psi_norm_grad] expected pointers, f32 or f64 and positive sizes, got rows %d, width %d, dtype %d.", rows, width, dtype);
  if (dtype == psi::F64) return psi_norm_grad_ref(dx, dw, db, dy, x, w, stats, rows, width, center, dtype);
  PSI_RUN(norm_backward)((float*)dx, (float*)dw, (float*)db, (const float*)dy, (const float*)x, (const float*)w, (const float*)stats, rows, width, (center & 1) != 0, (center & 2) != 0);
  return PSI_OK;
}
#endif
