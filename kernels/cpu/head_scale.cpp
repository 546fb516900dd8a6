/*
 * y = x with each head of a row times its gain (query gains of attention), and the gradient: dx = dy gain, dgain[h] += the
 * sum over rows, ascending, of dy.x of the head. A task is a row, or one head of all rows.
 */
#include "../common/pool.h"
#include "../common/simd.h"
#include "train.h"

PSI_KERNEL(head_scale, float* y, const float* x, const float* gain, i64 rows, i64 heads, i64 head_dim)
PSI_KERNEL(head_gain_grad, float* dgain, const float* dy, const float* x, i64 rows, i64 heads, i64 head_dim)

namespace psi::PSI_ISA {

void head_scale(float* y, const float* x, const float* gain, i64 rows, i64 heads, i64 head_dim) {
  parallel(rows, [&](i64 r, int) {
    for (i64 h = 0; h < heads; h++) {
      const i64 at = (r * heads + h) * head_dim;
      for (i64 k = 0; k < head_dim; k += 16) {
        const int n = (int)(head_dim - k < 16 ? head_dim - k : 16);
        store_n(y + at + k, load_n(x + at + k, n) * set1(gain[h]), n);
      }
    }
  });
}

void head_gain_grad(float* dgain, const float* dy, const float* x, i64 rows, i64 heads, i64 head_dim) {
  parallel(heads, [&](i64 h, int) {
    vf sum = zero();
    for (i64 r = 0; r < rows; r++) {
      const i64 at = (r * heads + h) * head_dim;
      for (i64 k = 0; k < head_dim; k += 16) {
        const int n = (int)(head_dim - k < 16 ? head_dim - k : 16);
        sum = fma(load_n(dy + at + k, n), load_n(x + at + k, n), sum);
      }
    }
    dgain[h] += hsum(sum);
  });
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
template <class T>
static void plain(T* y, const T* x, const T* gain, i64 rows, i64 heads, i64 head_dim) {
  for (i64 i = 0; i < rows * heads * head_dim; i++) y[i] = x[i] * gain[i / head_dim % heads];
}
template <class T>
static void plain_gain(T* dgain, const T* dy, const T* x, i64 rows, i64 heads, i64 head_dim) {
  for (i64 h = 0; h < heads; h++) {
    double sum = 0;
    for (i64 r = 0; r < rows; r++)
      for (i64 k = 0; k < head_dim; k++) sum += (double)dy[(r * heads + h) * head_dim + k] * x[(r * heads + h) * head_dim + k];
    dgain[h] += (T)sum;
  }
}

PSI_API i32 psi_head_scale_ref(void* y, const void* x, const void* gain, i32 rows, i32 heads, i32 head_dim, i32 dtype) {
  PSI_WITH_REAL(dtype, T, plain((T*)y, (const T*)x, (const T*)gain, rows, heads, head_dim));
  return PSI_OK;
}
PSI_API i32 psi_head_scale_grad_ref(void* dx, void* dgain, const void* dy, const void* x, const void* gain, i32 rows, i32 heads, i32 head_dim, i32 dtype) {
  PSI_WITH_REAL(dtype, T, plain((T*)dx, (const T*)dy, (const T*)gain, rows, heads, head_dim);
                if (dgain) plain_gain((T*)dgain, (const T*)dy, (const T*)x, rows, heads, head_dim));
  return PSI_OK;
}

static i32 check(const char* where, bool pointers, i32 rows, i32 heads, i32 head_dim, i32 dtype) {
  if (!pointers || rows < 0 || heads < 1 || head_dim < 1 || !psi::is_real(dtype))
    return psi::fail(PSI_INVALID, "[%s] expected pointers, f32 or f64 and positive sizes, got rows %d, heads %d, head_dim %d, dtype %d.", where, rows, heads, head_dim, dtype);
  return PSI_OK;
}
PSI_API i32 psi_head_scale(void* y, const void* x, const void* gain, i32 rows, i32 heads, i32 head_dim, i32 dtype) {
  PSI_OPENED("psi_head_scale");
  i32 status = check("psi_head_scale", y && x && gain, rows, heads, head_dim, dtype);
  if (status != PSI_OK) return status;
  if (dtype == psi::F64) return psi_head_scale_ref(y, x, gain, rows, heads, head_dim, dtype);
  PSI_RUN(head_scale)((float*)y, (const float*)x, (const float*)gain, rows, heads, head_dim);
  return PSI_OK;
}
PSI_API i32 psi_head_scale_grad(void* dx, void* dgain, const void* dy, const void* x, const void* gain, i32 rows, i32 heads, i32 head_dim, i32 dtype) {
  PSI_OPENED("psi_head_scale_grad");
  i32 status = check("psi_head_scale_grad", dx && dy && x && gain, rows, heads, head_dim, dtype);
  if (status != PSI_OK) return status;
  if (dtype == psi::F64) return psi_head_scale_grad_ref(dx, dgain, dy, x, gain, rows, heads, head_dim, dtype);
  PSI_RUN(head_scale)((float*)dx, (const float*)dy, (const float*)gain, rows, heads, head_dim);
  if (dgain) PSI_RUN(head_gain_grad)((float*)dgain, (const float*)dy, (const float*)x, rows, heads, head_dim);
  return PSI_OK;
}
#endif
