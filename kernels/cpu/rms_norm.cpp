/*
 * y = x / sqrt(mean(x^2) + eps) * w over groups of each row: x, y f32 [rows, stride], the group g of a row at
 * offset + g*width; w f32 [width] or NULL. y may be x. Accumulation: f32 in 16 lanes, one fixed tree.
 * add_rms_norm: sum = x + delta (sum may be x), y = rms_norm(sum). One task per row. Alignment: none needed.
 */
#include <math.h>

#include "../common/pool.h"
#include "../common/simd.h"

PSI_KERNEL(rms_norm, float* y, const float* x, const float* w, i64 rows, i64 stride, i64 offset, i64 groups, i64 width, float eps)
PSI_KERNEL(add_rms_norm, float* sum, float* y, const float* x, const float* delta, const float* w, i64 rows, i64 width, float eps)

namespace psi::PSI_ISA {

static float inverse_root(const float* x, i64 n, float eps) {
  vf a = zero(), b = zero();
  i64 k = 0;
  for (; k + 32 <= n; k += 32) {
    vf u = load(x + k), v = load(x + k + 16);
    a = fma(u, u, a);
    b = fma(v, v, b);
  }
  for (; k < n; k += 16) {
    vf u = load_n(x + k, (int)(n - k < 16 ? n - k : 16));
    a = fma(u, u, a);
  }
  return 1.0f / sqrtf(hsum(a + b) / (float)n + eps);
}

static void scale_group(float* y, const float* x, const float* w, i64 n, float s) {
  vf scale = set1(s);
  for (i64 k = 0; k < n; k += 16) {
    int m = (int)(n - k < 16 ? n - k : 16);
    vf v = load_n(x + k, m) * scale;
    if (w) v = v * load_n(w + k, m);
    store_n(y + k, v, m);
  }
}

void rms_norm(float* y, const float* x, const float* w, i64 rows, i64 stride, i64 offset, i64 groups, i64 width, float eps) {
  parallel(rows, [&](i64 r, int) {
    for (i64 g = 0; g < groups; g++) {
      i64 at = r * stride + offset + g * width;
      scale_group(y + at, x + at, w, width, inverse_root(x + at, width, eps));
    }
  });
}

void add_rms_norm(float* sum, float* y, const float* x, const float* delta, const float* w, i64 rows, i64 width, float eps) {
  parallel(rows, [&](i64 r, int) {
    i64 at = r * width;
    for (i64 k = 0; k < width; k += 16) {
      int m = (int)(width - k < 16 ? width - k : 16);
      store_n(sum + at + k, load_n(x + at + k, m) + load_n(delta + at + k, m), m);
    }
    scale_group(y + at, sum + at, w, width, inverse_root(sum + at, width, eps));
  });
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
static i32 check_norm(const char* where, i32 rows, i32 stride, i32 offset, i32 groups, i32 width) {
  if (rows < 0 || width < 1 || groups < 1 || offset < 0 || (i64)offset + (i64)groups * width > stride)
    return psi::fail(PSI_INVALID, "[%s] expected groups inside the rows, got rows %d, stride %d, offset %d, groups %d, width %d.", where, rows, stride, offset, groups, width);
  return PSI_OK;
}

PSI_API i32 psi_rms_norm(void* y, const void* x, const void* w, i32 rows, i32 stride, i32 offset, i32 groups, i32 width, f32 eps) {
  PSI_OPENED("psi_rms_norm");
  if (!y || !x) return psi::fail(PSI_INVALID, "[psi_rms_norm] expected non-null pointers.");
  i32 status = check_norm("psi_rms_norm", rows, stride, offset, groups, width);
  if (status != PSI_OK) return status;
  PSI_RUN(rms_norm)((float*)y, (const float*)x, (const float*)w, rows, stride, offset, groups, width, eps);
  return PSI_OK;
}

PSI_API i32 psi_add_rms_norm(void* sum, void* y, const void* x, const void* delta, const void* w, i32 rows, i32 width, f32 eps) {
  PSI_OPENED("psi_add_rms_norm");
  if (!sum || !y || !x || !delta || !w) return psi::fail(PSI_INVALID, "[psi_add_rms_norm] expected non-null pointers.");
  i32 status = check_norm("psi_add_rms_norm", rows, width, 0, 1, width);
  if (status != PSI_OK) return status;
  PSI_RUN(add_rms_norm)((float*)sum, (float*)y, (const float*)x, (const float*)delta, (const float*)w, rows, width, eps);
  return PSI_OK;
}

template <class T>
static i32 reference(T* y, const T* x, const T* w, i32 rows, i32 stride, i32 offset, i32 groups, i32 width, f32 eps) {
  for (i64 r = 0; r < rows; r++)
    for (i64 g = 0; g < groups; g++) {
      i64 at = r * stride + offset + g * width;
      double sum = 0;
      for (i64 k = 0; k < width; k++) sum += (double)x[at + k] * x[at + k];
      double scale = 1 / sqrt(sum / width + eps);
      for (i64 k = 0; k < width; k++) y[at + k] = (T)(x[at + k] * scale * (w ? w[k] : 1));
    }
  return PSI_OK;
}

PSI_API i32 psi_rms_norm_ref(void* y, const void* x, const void* w, i32 rows, i32 stride, i32 offset, i32 groups, i32 width, f32 eps) {
  return reference((float*)y, (const float*)x, (const float*)w, rows, stride, offset, groups, width, eps);
}
PSI_API i32 psi_rms_norm_ref_f64(void* y, const void* x, const void* w, i32 rows, i32 stride, i32 offset, i32 groups, i32 width, f32 eps) {
  return reference((double*)y, (const double*)x, (const double*)w, rows, stride, offset, groups, width, eps);
}
PSI_API i32 psi_add_rms_norm_ref(void* sum, void* y, const void* x, const void* delta, const void* w, i32 rows, i32 width, f32 eps) {
  for (i64 i = 0; i < (i64)rows * width; i++) ((float*)sum)[i] = ((const float*)x)[i] + ((const float*)delta)[i];
  return reference((float*)y, (const float*)sum, (const float*)w, rows, width, 0, 1, width, eps);
}
#endif
