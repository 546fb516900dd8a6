/*
 * mix: y = alpha wa a + beta wb b per column (wa, wb or b may be absent), its gradients, and multiply: y = a b.
 * Residual and skip connections with learned scales per channel. Element-wise in pieces; dwa, dwb over rows ascending, a
 * task being 16 columns.
 */
#include "../common/pool.h"
#include "../common/simd.h"
#include "train.h"

PSI_KERNEL(mix, float* y, const float* a, const float* b, const float* wa, const float* wb, i64 rows, i64 width, float alpha, float beta)
PSI_KERNEL(mix_weight_grad, float* dw, const float* dy, const float* a, i64 rows, i64 width, float alpha)
PSI_KERNEL(multiply, float* y, const float* a, const float* b, i64 count)

namespace psi::PSI_ISA {

void mix(float* y, const float* a, const float* b, const float* wa, const float* wb, i64 rows, i64 width, float alpha, float beta) {
  const i64 step = width < PIECE ? PIECE / width : 1;
  parallel((rows + step - 1) / step, [&](i64 task, int) {
    const i64 end = (task + 1) * step < rows ? (task + 1) * step : rows;
    for (i64 r = task * step; r < end; r++)
      for (i64 k = 0; k < width; k += 16) {
        const int n = (int)(width - k < 16 ? width - k : 16);
        const i64 at = r * width + k;
        vf v = set1(alpha) * load_n(a + at, n);
        if (wa) v = v * load_n(wa + k, n);
        if (b) {
          vf u = set1(beta) * load_n(b + at, n);
          if (wb) u = u * load_n(wb + k, n);
          v = v + u;
        }
        store_n(y + at, v, n);
      }
  });
}

void mix_weight_grad(float* dw, const float* dy, const float* a, i64 rows, i64 width, float alpha) {
  parallel((width + 15) / 16, [&](i64 task, int) {
    const i64 k = task * 16;
    const int n = (int)(width - k < 16 ? width - k : 16);
    vf sum = zero();
    for (i64 r = 0; r < rows; r++) sum = fma(load_n(dy + r * width + k, n), load_n(a + r * width + k, n), sum);
    store_n(dw + k, load_n(dw + k, n) + set1(alpha) * sum, n);
  });
}

void multiply(float* y, const float* a, const float* b, i64 count) {
  parallel((count + PIECE - 1) / PIECE, [&](i64 task, int) {
    const i64 end = (task + 1) * PIECE < count ? (task + 1) * PIECE : count;
    for (i64 k = task * PIECE; k < end; k += 16) {
      const int n = (int)(end - k < 16 ? end - k : 16);
      store_n(y + k, load_n(a + k, n) * load_n(b + k, n), n);
    }
  });
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
template <class T>
static void plain(T* y, const T* a, const T* b, const T* wa, const T* wb, i64 width, i64 count, double alpha, double beta) {
  for (i64 i = 0; i < count; i++) {
    const double first = alpha * a[i] * (wa ? wa[i % width] : 1);
    y[i] = (T)(b ? first + beta * b[i] * (wb ? wb[i % width] : 1) : first);
  }
}
template <class T>
static void plain_side(T* d, T* dw, const T* dy, const T* x, const T* w, i64 width, i64 count, double scale) {
  for (i64 k = 0; dw && k < width; k++) {
    double sum = 0;
    for (i64 i = k; i < count; i += width) sum += (double)dy[i] * x[i];
    dw[k] += (T)(scale * sum);
  }
  for (i64 i = 0; d && i < count; i++) d[i] = (T)(scale * dy[i] * (w ? w[i % width] : 1));
}

PSI_API i32 psi_mix_ref(void* y, const void* a, const void* b, const void* wa, const void* wb, i32 width, i32 dtype, f64 count, f64 alpha, f64 beta) {
  PSI_WITH_REAL(dtype, T, plain((T*)y, (const T*)a, (const T*)b, (const T*)wa, (const T*)wb, width, (i64)count, alpha, beta));
  return PSI_OK;
}
PSI_API i32 psi_mix_grad_ref(void* da, void* db, void* dwa, void* dwb, const void* dy, const void* a, const void* b, const void* wa, const void* wb, i32 width, i32 dtype, f64 count, f64 alpha, f64 beta) {
  PSI_WITH_REAL(dtype, T, plain_side((T*)da, (T*)dwa, (const T*)dy, (const T*)a, (const T*)wa, width, (i64)count, alpha);
                plain_side((T*)db, (T*)dwb, (const T*)dy, (const T*)b, (const T*)wb, width, (i64)count, beta));
  return PSI_OK;
}
PSI_API i32 psi_multiply_ref(void* y, const void* a, const void* b, i32 dtype, f64 count) {
  for (i64 i = 0; i < (i64)count; i++) PSI_WITH_REAL(dtype, T, ((T*)y)[i] = ((const T*)a)[i] * ((const T*)b)[i]);
  return PSI_OK;
}

static i32 check(const char* where, bool pointers, i32 width, i32 dtype, f64 count) {
  if (!pointers || width < 1 || !(count >= 0) || (i64)count % width || !psi::is_real(dtype))
    return psi::fail(PSI_INVALID, "[%s] expected pointers, f32 or f64 and whole rows, got width %d, count %.0f, dtype %d.", where, width, count, dtype);
  return PSI_OK;
}

PSI_API i32 psi_mix(void* y, const void* a, const void* b, const void* wa, const void* wb, i32 width, i32 dtype, f64 count, f64 alpha, f64 beta) {
  PSI_OPENED("psi_mix");
  i32 status = check("psi_mix", y && a && (b || !wb), width, dtype, count);
  if (status != PSI_OK) return status;
  if (dtype == psi::F64) return psi_mix_ref(y, a, b, wa, wb, width, dtype, count, alpha, beta);
  PSI_RUN(mix)((float*)y, (const float*)a, (const float*)b, (const float*)wa, (const float*)wb, (i64)count / width, width, (float)alpha, (float)beta);
  return PSI_OK;
}
PSI_API i32 psi_mix_grad(void* da, void* db, void* dwa, void* dwb, const void* dy, const void* a, const void* b, const void* wa, const void* wb, i32 width, i32 dtype, f64 count, f64 alpha, f64 beta) {
  PSI_OPENED("psi_mix_grad");
  i32 status = check("psi_mix_grad", dy && (a || !dwa) && (b || !dwb), width, dtype, count);
  if (status != PSI_OK) return status;
  if (dtype == psi::F64) return psi_mix_grad_ref(da, db, dwa, dwb, dy, a, b, wa, wb, width, dtype, count, alpha, beta);
  const i64 rows = (i64)count / width;
  if (da) PSI_RUN(mix)((float*)da, (const float*)dy, nullptr, (const float*)wa, nullptr, rows, width, (float)alpha, 0);
  if (db) PSI_RUN(mix)((float*)db, (const float*)dy, nullptr, (const float*)wb, nullptr, rows, width, (float)beta, 0);
  if (dwa) PSI_RUN(mix_weight_grad)((float*)dwa, (const float*)dy, (const float*)a, rows, width, (float)alpha);
  if (dwb) PSI_RUN(mix_weight_grad)((float*)dwb, (const float*)dy, (const float*)b, rows, width, (float)beta);
  return PSI_OK;
}
PSI_API i32 psi_multiply(void* y, const void* a, const void* b, i32 dtype, f64 count) {
  PSI_OPENED("psi_multiply");
  i32 status = check("psi_multiply", y && a && b, 1, dtype, count);
  if (status != PSI_OK) return status;
  if (dtype == psi::F64) return psi_multiply_ref(y, a, b, dtype, count);
  PSI_RUN(multiply)((float*)y, (const float*)a, (const float*)b, (i64)count);
  return PSI_OK;
}
#endif
