/*
 * Optimiser steps over flat ranges of f32, in pieces of 8192 elements; g is multiplied by factor[0] (clipping) first.
 *   adam: m += (1-b1)(g-m), v += (1-b2)(g^2-v), p -= lr (m c1 / (sqrt(v c2) + eps) + decay p [decoupled: AdamW])
 *   sgd: g += decay p; buffer = momentum buffer + g; p -= lr buffer
 *   momentum, unit_norm, muon_update: what Muon does around its Newton-Schulz products (gemm)
 * rates are f64 on the device, so that a recorded step can be replayed with others. A factor that is NaN changes nothing.
 */
#include <math.h>
#include <string.h>

#include "../common/pool.h"
#include "train.h"

namespace psi {
struct AdamStep {
  float *p, *m, *v;
  const float* g;
  i64 count;
  float factor, lr, correction1, correction2, beta1, beta2, eps, decay;
  bool decoupled;
};
}  // namespace psi

PSI_KERNEL(adam_step, const AdamStep& s)
PSI_KERNEL(sgd_step, float* p, float* buffer, const float* g, i64 count, float factor, float lr, float momentum, float decay)
PSI_KERNEL(momentum_step, float* y, float* buffer, const float* g, i64 count, float factor, bool nesterov, float momentum)
PSI_KERNEL(muon_step, float* p, const float* y, i64 count, float keep, float rate)

namespace psi::PSI_ISA {

template <class F>
PSI_INLINE void pieces(i64 count, F&& f) {
  parallel((count + PIECE - 1) / PIECE, [&](i64 task, int) { f(task * PIECE, (task + 1) * PIECE < count ? (task + 1) * PIECE : count); });
}

void adam_step(const AdamStep& s) {
  pieces(s.count, [&](i64 from, i64 to) {
    float *__restrict p = s.p, *__restrict m = s.m, *__restrict v = s.v;
    const float* __restrict g = s.g;
    const float l2 = s.decoupled ? 0 : s.decay, decoupled = s.decoupled ? s.decay : 0;
    for (i64 i = from; i < to; i++) {
      const float grad = g[i] * s.factor + l2 * p[i];
      m[i] += (1 - s.beta1) * (grad - m[i]);
      v[i] += (1 - s.beta2) * (grad * grad - v[i]);
      p[i] -= s.lr * (m[i] * s.correction1 / (sqrtf(v[i] * s.correction2) + s.eps) + decoupled * p[i]);
    }
  });
}
void sgd_step(float* p, float* buffer, const float* g, i64 count, float factor, float lr, float momentum, float decay) {
  pieces(count, [&](i64 from, i64 to) {
    for (i64 i = from; i < to; i++) {
      float step = g[i] * factor + decay * p[i];
      if (buffer) step = buffer[i] = momentum * buffer[i] + step;
      p[i] -= lr * step;
    }
  });
}
void momentum_step(float* y, float* buffer, const float* g, i64 count, float factor, bool nesterov, float momentum) {
  pieces(count, [&](i64 from, i64 to) {
    for (i64 i = from; i < to; i++) {
      const float grad = g[i] * factor;
      buffer[i] = momentum * buffer[i] + grad;
      y[i] = nesterov ? grad + momentum * buffer[i] : buffer[i];
    }
  });
}
void muon_step(float* p, const float* y, i64 count, float keep, float rate) {
  pieces(count, [&](i64 from, i64 to) {
    for (i64 i = from; i < to; i++) p[i] = p[i] * keep - rate * y[i];
  });
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
PSI_API i32 psi_adam_ref(void* p, void* m, void* v, const void* g, const void* factor, const void* rates, i32 decoupled, f64 count, f64 beta1, f64 beta2, f64 eps, f64 decay) {
  const double *r = (const double*)rates, f = ((const float*)factor)[0];
  if (isnan(f)) return PSI_OK;
  for (i64 i = 0; i < (i64)count; i++) {
    const double old = ((float*)p)[i], grad = ((const float*)g)[i] * f + (decoupled ? 0 : decay * old);
    const double first = beta1 * ((float*)m)[i] + (1 - beta1) * grad, second = beta2 * ((float*)v)[i] + (1 - beta2) * grad * grad;
    ((float*)m)[i] = (float)first;
    ((float*)v)[i] = (float)second;
    ((float*)p)[i] = (float)(old - r[0] * (first * r[1] / (sqrt(second * r[2]) + eps) + (decoupled ? decay * old : 0)));
  }
  return PSI_OK;
}
PSI_API i32 psi_sgd_ref(void* p, void* buffer, const void* g, const void* factor, const void* rates, f64 count, f64 momentum, f64 decay) {
  const double lr = ((const double*)rates)[0], f = ((const float*)factor)[0];
  if (isnan(f)) return PSI_OK;
  for (i64 i = 0; i < (i64)count; i++) {
    double step = ((const float*)g)[i] * f + decay * ((float*)p)[i];
    if (buffer) step = ((float*)buffer)[i] = (float)(momentum * ((float*)buffer)[i] + step);
    ((float*)p)[i] = (float)(((float*)p)[i] - lr * step);
  }
  return PSI_OK;
}
PSI_API i32 psi_momentum_ref(void* y, void* buffer, const void* g, const void* factor, const void* rates, i32 nesterov, f64 count) {
  const double momentum = ((const double*)rates)[1], f = ((const float*)factor)[0];
  if (isnan(f)) return memset(y, 0, 4 * (size_t)count), PSI_OK;
  for (i64 i = 0; i < (i64)count; i++) {
    const double grad = (double)((const float*)g)[i] * f, next = momentum * ((float*)buffer)[i] + grad;
    ((float*)buffer)[i] = (float)next;
    ((float*)y)[i] = (float)(nesterov ? grad + momentum * next : next);
  }
  return PSI_OK;
}
PSI_API i32 psi_unit_norm_ref(void* y, const void* x, i32 batch, f64 count, f64 eps) {
  for (i64 b = 0; b < batch; b++) {
    const float* in = (const float*)x + b * (i64)count;
    double sum = 0;
    for (i64 i = 0; i < (i64)count; i++) sum += (double)in[i] * in[i];
    const float scale = (float)(1 / (sqrt(sum) + eps));
    for (i64 i = 0; i < (i64)count; i++) ((float*)y)[b * (i64)count + i] = in[i] * scale;
  }
  return PSI_OK;
}
PSI_API i32 psi_muon_update_ref(void* p, const void* y, const void* factor, const void* rates, f64 count, f64 scale, f64 decay) {
  const double lr = ((const double*)rates)[0];
  if (isnan(((const float*)factor)[0])) return PSI_OK;
  for (i64 i = 0; i < (i64)count; i++) ((float*)p)[i] = (float)(((float*)p)[i] * (1 - lr * decay) - lr * scale * ((const float*)y)[i]);
  return PSI_OK;
}

static i32 check(const char* where, bool pointers, f64 count) {
  return pointers && count >= 0 ? PSI_OK : psi::fail(PSI_INVALID, "[%s] expected pointers and a count of at least 0, got count %.0f.", where, count);
}
PSI_API i32 psi_adam(void* p, void* m, void* v, const void* g, const void* factor, const void* rates, i32 decoupled, f64 count, f64 beta1, f64 beta2, f64 eps, f64 decay) {
  PSI_OPENED("psi_adam");
  i32 status = check("psi_adam", p && m && v && g && factor && rates, count);
  if (status != PSI_OK) return status;
  const double* r = (const double*)rates;
  if (isnan(((const float*)factor)[0])) return PSI_OK;
  PSI_RUN(adam_step)({(float*)p, (float*)m, (float*)v, (const float*)g, (i64)count, ((const float*)factor)[0], (float)r[0], (float)r[1], (float)r[2], (float)beta1, (float)beta2, (float)eps, (float)decay, decoupled != 0});
  return PSI_OK;
}
PSI_API i32 psi_sgd(void* p, void* buffer, const void* g, const void* factor, const void* rates, f64 count, f64 momentum, f64 decay) {
  PSI_OPENED("psi_sgd");
  i32 status = check("psi_sgd", p && g && factor && rates, count);
  if (status != PSI_OK) return status;
  if (isnan(((const float*)factor)[0])) return PSI_OK;
  PSI_RUN(sgd_step)((float*)p, (float*)buffer, (const float*)g, (i64)count, ((const float*)factor)[0], (float)((const double*)rates)[0], (float)momentum, (float)decay);
  return PSI_OK;
}
PSI_API i32 psi_momentum(void* y, void* buffer, const void* g, const void* factor, const void* rates, i32 nesterov, f64 count) {
  PSI_OPENED("psi_momentum");
  i32 status = check("psi_momentum", y && buffer && g && factor && rates, count);
  if (status != PSI_OK) return status;
  const float f = ((const float*)factor)[0];
  if (isnan(f)) return memset(y, 0, 4 * (size_t)count), PSI_OK;
  PSI_RUN(momentum_step)((float*)y, (float*)buffer, (const float*)g, (i64)count, f, nesterov != 0, (float)((const double*)rates)[1]);
  return PSI_OK;
}
PSI_API i32 psi_unit_norm(void* y, const void* x, i32 batch, f64 count, f64 eps) {
  i32 status = check("psi_unit_norm", y && x && batch >= 0, count);
  return status != PSI_OK ? status : psi_unit_norm_ref(y, x, batch, count, eps);
}
PSI_API i32 psi_muon_update(void* p, const void* y, const void* factor, const void* rates, f64 count, f64 scale, f64 decay) {
  PSI_OPENED("psi_muon_update");
  i32 status = check("psi_muon_update", p && y && factor && rates, count);
  if (status != PSI_OK) return status;
  if (isnan(((const float*)factor)[0])) return PSI_OK;
  const double lr = ((const double*)rates)[0];
  PSI_RUN(muon_step)((float*)p, (const float*)y, (i64)count, (float)(1 - lr * decay), (float)(lr * scale));
  return PSI_OK;
}
#endif
