/*
 * y = act(x) * up (up absent: act(x)) and its gradient. With s = sigmoid:
 *   silu: x s(x)      gelu: x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))      relu2: max(x,0)^2
 *   clamped (GPT-OSS): g = min(x,limit), u = clamp(up,+-limit): g s(alpha g) (u + 1); no gradient beyond the limits.
 * Elements in pieces of 8192.
 */
#include <math.h>

#include "../common/pool.h"
#include "../common/tanh.h"
#include "train.h"

PSI_KERNEL(activation, float* y, const float* x, const float* up, i32 kind, i64 count, float alpha, float limit)
PSI_KERNEL(activation_grad, float* dx, float* dup, const float* dy, const float* x, const float* up, i32 kind, i64 count, float alpha, float limit)

namespace psi {
enum ActivationKind : i32 { SILU, GELU, CLAMPED, RELU2 };
constexpr double GELU_SLOPE = 0.79788456080286535588, GELU_CUBE = 0.044715;
}  // namespace psi

namespace psi::PSI_ISA {

PSI_INLINE vf sigmoid(vf x) { return set1(1) / (set1(1) + exp(zero() - x)); }

/* Value and slope of the activation without `up`; for `clamped` x is already clamped. */
PSI_INLINE void value_and_slope(vf x, i32 kind, vf alpha, vf& value, vf& slope) {
  if (kind == GELU) {
    const vf squared = x * x;
    const vf t = tanh(set1((float)GELU_SLOPE) * x * fma(set1((float)GELU_CUBE), squared, set1(1)));
    const vf inner = set1((float)GELU_SLOPE) * fma(set1((float)(3 * GELU_CUBE)), squared, set1(1));
    value = set1(0.5f) * x * (set1(1) + t);
    slope = set1(0.5f) * (set1(1) + t) + set1(0.5f) * x * (set1(1) - t * t) * inner;
  } else if (kind == RELU2) {
    const vf positive = max(x, zero());
    value = positive * positive;
    slope = positive + positive;
  } else {
    const vf s = sigmoid(alpha * x);
    value = x * s;
    slope = s * (set1(1) + alpha * x * (set1(1) - s));
  }
}

template <class F>
PSI_INLINE void vectors(i64 count, F&& f) {
  parallel((count + PIECE - 1) / PIECE, [&](i64 task, int) {
    const i64 end = (task + 1) * PIECE < count ? (task + 1) * PIECE : count;
    for (i64 k = task * PIECE; k < end; k += 16) f(k, (int)(end - k < 16 ? end - k : 16));
  });
}

void activation(float* y, const float* x, const float* up, i32 kind, i64 count, float alpha, float limit) {
  const vf a = set1(kind == CLAMPED ? alpha : 1.0f), most = set1(limit), least = set1(-limit);
  vectors(count, [&](i64 k, int n) PSI_LAMBDA {
    vf in = load_n(x + k, n), value, slope, factor = set1(1);
    if (up) factor = load_n(up + k, n);
    if (kind == CLAMPED) {
      in = min(most, in);
      factor = min(most, max(least, factor)) + set1(1);
    }
    value_and_slope(in, kind, a, value, slope);
    store_n(y + k, value * factor, n);
  });
}

void activation_grad(float* dx, float* dup, const float* dy, const float* x, const float* up, i32 kind, i64 count, float alpha, float limit) {
  const vf a = set1(kind == CLAMPED ? alpha : 1.0f), most = set1(limit), least = set1(-limit);
  vectors(count, [&](i64 k, int n) PSI_LAMBDA {
    const vf in = load_n(x + k, n), d = load_n(dy + k, n), given = up ? load_n(up + k, n) : set1(1);
    vf value, slope, factor = given;
    if (kind == CLAMPED) factor = min(most, max(least, given)) + set1(1);
    value_and_slope(kind == CLAMPED ? min(most, in) : in, kind, a, value, slope);
    vf below = d * factor * slope, beside = d * value;
    if (kind == CLAMPED) {
      below = select(gt(in, most), zero(), below);
      beside = select(gt(abs(given), most), zero(), beside);
    }
    store_n(dx + k, below, n);
    if (dup) store_n(dup + k, beside, n);
  });
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
static void plain_value(double x, i32 kind, double alpha, double& value, double& slope) {
  if (kind == psi::GELU) {
    const double t = tanh(psi::GELU_SLOPE * (x + psi::GELU_CUBE * x * x * x));
    value = 0.5 * x * (1 + t);
    slope = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * psi::GELU_SLOPE * (1 + 3 * psi::GELU_CUBE * x * x);
  } else if (kind == psi::RELU2) {
    value = x > 0 ? x * x : 0;
    slope = x > 0 ? 2 * x : 0;
  } else {
    const double a = kind == psi::CLAMPED ? alpha : 1, s = 1 / (1 + exp(-a * x));
    value = x * s;
    slope = s * (1 + a * x * (1 - s));
  }
}

template <class T>
static void plain(T* y, T* dx, T* dup, const T* dy, const T* x, const T* up, i32 kind, i64 count, double alpha, double limit) {
  for (i64 i = 0; i < count; i++) {
    const bool clamped = kind == psi::CLAMPED;
    const double in = x[i], given = up ? up[i] : 1;
    const double factor = clamped ? fmin(limit, fmax(-limit, given)) + 1 : given;
    double value, slope;
    plain_value(clamped ? fmin(limit, in) : in, kind, alpha, value, slope);
    if (y) y[i] = (T)(value * factor);
    if (dx) dx[i] = (T)(clamped && in > limit ? 0 : dy[i] * factor * slope);
    if (dup) dup[i] = (T)(clamped && fabs(given) > limit ? 0 : dy[i] * value);
  }
}

PSI_API i32 psi_activation_ref(void* y, const void* x, const void* up, i32 kind, i32 dtype, f64 count, f64 alpha, f64 limit) {
  PSI_WITH_REAL(dtype, T, plain((T*)y, (T*)nullptr, (T*)nullptr, (const T*)nullptr, (const T*)x, (const T*)up, kind, (i64)count, alpha, limit));
  return PSI_OK;
}
PSI_API i32 psi_activation_grad_ref(void* dx, void* dup, const void* dy, const void* x, const void* up, i32 kind, i32 dtype, f64 count, f64 alpha, f64 limit) {
  PSI_WITH_REAL(dtype, T, plain((T*)nullptr, (T*)dx, (T*)dup, (const T*)dy, (const T*)x, (const T*)up, kind, (i64)count, alpha, limit));
  return PSI_OK;
}

static i32 check(const char* where, bool pointers, const void* up, i32 kind, i32 dtype, f64 count, f64 limit) {
  if (!pointers || kind < 0 || kind > 3 || !(count >= 0) || !psi::is_real(dtype) || (kind == psi::CLAMPED && (!up || !(limit > 0))))
    return psi::fail(PSI_INVALID, "[%s] expected pointers, f32 or f64, a kind of 0..3 and, for kind 2, up and a limit above 0, got kind %d, dtype %d, count %.0f, limit %g.", where, kind, dtype, count, limit);
  return PSI_OK;
}
PSI_API i32 psi_activation(void* y, const void* x, const void* up, i32 kind, i32 dtype, f64 count, f64 alpha, f64 limit) {
  PSI_OPENED("psi_activation");
  i32 status = check("psi_activation", y && x, up, kind, dtype, count, limit);
  if (status != PSI_OK) return status;
  if (dtype == psi::F64) return psi_activation_ref(y, x, up, kind, dtype, count, alpha, limit);
  PSI_RUN(activation)((float*)y, (const float*)x, (const float*)up, kind, (i64)count, (float)alpha, (float)limit);
  return PSI_OK;
}
PSI_API i32 psi_activation_grad(void* dx, void* dup, const void* dy, const void* x, const void* up, i32 kind, i32 dtype, f64 count, f64 alpha, f64 limit) {
  PSI_OPENED("psi_activation_grad");
  i32 status = check("psi_activation_grad", dx && dy && x && (!dup || up), up, kind, dtype, count, limit);
  if (status != PSI_OK) return status;
  if (dtype == psi::F64) return psi_activation_grad_ref(dx, dup, dy, x, up, kind, dtype, count, alpha, limit);
  PSI_RUN(activation_grad)((float*)dx, (float*)dup, (const float*)dy, (const float*)x, (const float*)up, kind, (i64)count, (float)alpha, (float)limit);
  return PSI_OK;
}
#endif
