/*
 * Optimiser steps over flat ranges of f32, four elements a thread; g is multiplied by factor[0] (clipping) first. Formulas
 * as in kernels/cpu/adam.cpp. rates and factor are read on the device, so that a recorded step can be replayed with others;
 * a factor that is NaN changes nothing.
 * Bytes an element: adam 28, sgd 20 or 12, momentum 16, muon_update 12.
 */
#include "train.cuh"

namespace psi {

struct AdamArguments {
  float *p, *m, *v;
  const float *g, *factor;
  const double* rates;
  float beta1, beta2, eps, decay;
  bool decoupled;
  i64 count;
};

__device__ __forceinline__ void adam_element(const AdamArguments& a, float factor, float lr, float correction1, float correction2, float& p, float& m, float& v, float g) {
  const float grad = g * factor + (a.decoupled ? 0.0f : a.decay * p);
  m += (1.0f - a.beta1) * (grad - m);
  v += (1.0f - a.beta2) * (grad * grad - v);
  p -= lr * (m * correction1 / (sqrtf(v * correction2) + a.eps) + (a.decoupled ? a.decay * p : 0.0f));
}

__global__ void adam_kernel(const __grid_constant__ AdamArguments a) {
  let_next_start();
  wait_for_inputs();
  const i64 i = flat_place();
  if (i >= a.count) return;
  const bool whole = i + 4 <= a.count;
  const i64 valid = a.count - i;
  const float factor = a.factor[0], lr = (float)a.rates[0], c1 = (float)a.rates[1], c2 = (float)a.rates[2];
  if (isnan(factor)) return;
  float4 p = some4({a.p, false}, i, valid, whole), m = some4({a.m, false}, i, valid, whole), v = some4({a.v, false}, i, valid, whole);
  const float4 g = some4({a.g, false}, i, valid, whole);
  adam_element(a, factor, lr, c1, c2, p.x, m.x, v.x, g.x);
  adam_element(a, factor, lr, c1, c2, p.y, m.y, v.y, g.y);
  adam_element(a, factor, lr, c1, c2, p.z, m.z, v.z, g.z);
  adam_element(a, factor, lr, c1, c2, p.w, m.w, v.w, g.w);
  put_some4({a.p, false}, i, valid, whole, p);
  put_some4({a.m, false}, i, valid, whole, m);
  put_some4({a.v, false}, i, valid, whole, v);
}

__global__ void sgd_kernel(float* p, float* buffer, const float* g, const float* factor, const double* rates, i64 count, float momentum, float decay) {
  let_next_start();
  wait_for_inputs();
  const i64 i = flat_place();
  if (i >= count) return;
  const bool whole = i + 4 <= count;
  const i64 valid = count - i;
  const float f = factor[0], lr = (float)rates[0];
  if (isnan(f)) return;
  float4 old = some4({p, false}, i, valid, whole), d = some4({g, false}, i, valid, whole);
  d = make_float4(d.x * f + decay * old.x, d.y * f + decay * old.y, d.z * f + decay * old.z, d.w * f + decay * old.w);
  if (buffer) {
    const float4 b = some4({buffer, false}, i, valid, whole);
    d = make_float4(momentum * b.x + d.x, momentum * b.y + d.y, momentum * b.z + d.z, momentum * b.w + d.w);
    put_some4({buffer, false}, i, valid, whole, d);
  }
  put_some4({p, false}, i, valid, whole, make_float4(old.x - lr * d.x, old.y - lr * d.y, old.z - lr * d.z, old.w - lr * d.w));
}

__global__ void momentum_kernel(float* y, float* buffer, const float* g, const float* factor, const double* rates, bool nesterov, i64 count) {
  let_next_start();
  wait_for_inputs();
  const i64 i = flat_place();
  if (i >= count) return;
  const bool whole = i + 4 <= count;
  const i64 valid = count - i;
  const float f = factor[0], momentum = (float)rates[1];
  if (isnan(f)) return put_some4({y, false}, i, valid, whole, make_float4(0, 0, 0, 0));
  float4 d = some4({g, false}, i, valid, whole), b = some4({buffer, false}, i, valid, whole);
  d = make_float4(d.x * f, d.y * f, d.z * f, d.w * f);
  b = make_float4(momentum * b.x + d.x, momentum * b.y + d.y, momentum * b.z + d.z, momentum * b.w + d.w);
  put_some4({buffer, false}, i, valid, whole, b);
  put_some4({y, false}, i, valid, whole,
            nesterov ? make_float4(d.x + momentum * b.x, d.y + momentum * b.y, d.z + momentum * b.z, d.w + momentum * b.w) : b);
}

constexpr int UNIT_THREADS = 1024;

/* A block makes one matrix: its sum of squares in f64 by one tree, then its elements. */
__global__ void __launch_bounds__(UNIT_THREADS) unit_norm_kernel(float* y, const float* x, i64 count, double eps) {
  __shared__ double shared[32];
  let_next_start();
  wait_for_inputs();
  const i64 at = blockIdx.x * count;
  double sum = 0;
  for (i64 i = threadIdx.x; i < count; i += UNIT_THREADS) sum += (double)x[at + i] * x[at + i];
  const float scale = (float)(1.0 / (sqrt(block_total(sum, shared)) + eps));
  for (i64 i = threadIdx.x; i < count; i += UNIT_THREADS) y[at + i] = x[at + i] * scale;
}

__global__ void muon_kernel(float* p, const float* y, const float* factor, const double* rates, i64 count, double scale, double decay) {
  let_next_start();
  wait_for_inputs();
  const i64 i = flat_place();
  if (i >= count || isnan(factor[0])) return;
  const bool whole = i + 4 <= count;
  const i64 valid = count - i;
  const float keep = (float)(1.0 - rates[0] * decay), rate = (float)(rates[0] * scale);
  const float4 old = some4({p, false}, i, valid, whole), d = some4({y, false}, i, valid, whole);
  put_some4({p, false}, i, valid, whole, make_float4(old.x * keep - rate * d.x, old.y * keep - rate * d.y, old.z * keep - rate * d.z, old.w * keep - rate * d.w));
}

static i32 check_step(const char* where, bool pointers, f64 count) {
  return pointers && count >= 0 ? PSI_OK : fail(PSI_INVALID, "[%s] expected pointers and a count of at least 0, got count %.0f.", where, count);
}

}  // namespace psi

PSI_API i32 psi_adam(void* p, void* m, void* v, const void* g, const void* factor, const void* rates, i32 decoupled, f64 count, f64 beta1, f64 beta2, f64 eps, f64 decay) {
  using namespace psi;
  PSI_TRY(check_step("psi_adam", p && m && v && g && factor && rates, count));
  const AdamArguments a = {(float*)p, (float*)m, (float*)v, (const float*)g, (const float*)factor, (const double*)rates, (float)beta1, (float)beta2, (float)eps, (float)decay, decoupled != 0, (i64)count};
  return launch("psi_adam", adam_kernel, flat_grid(a.count), dim3(FLAT_THREADS), 0, a);
}
PSI_API i32 psi_sgd(void* p, void* buffer, const void* g, const void* factor, const void* rates, f64 count, f64 momentum, f64 decay) {
  using namespace psi;
  PSI_TRY(check_step("psi_sgd", p && g && factor && rates, count));
  return launch("psi_sgd", sgd_kernel, flat_grid((i64)count), dim3(FLAT_THREADS), 0, (float*)p, (float*)buffer, (const float*)g, (const float*)factor, (const double*)rates,
                (i64)count, (float)momentum, (float)decay);
}
PSI_API i32 psi_momentum(void* y, void* buffer, const void* g, const void* factor, const void* rates, i32 nesterov, f64 count) {
  using namespace psi;
  PSI_TRY(check_step("psi_momentum", y && buffer && g && factor && rates, count));
  return launch("psi_momentum", momentum_kernel, flat_grid((i64)count), dim3(FLAT_THREADS), 0, (float*)y, (float*)buffer, (const float*)g, (const float*)factor,
                (const double*)rates, nesterov != 0, (i64)count);
}
PSI_API i32 psi_unit_norm(void* y, const void* x, i32 batch, f64 count, f64 eps) {
  using namespace psi;
  PSI_TRY(check_step("psi_unit_norm", y && x && batch >= 0, count));
  return launch("psi_unit_norm", unit_norm_kernel, dim3(batch), dim3(UNIT_THREADS), 0, (float*)y, (const float*)x, (i64)count, eps);
}
PSI_API i32 psi_muon_update(void* p, const void* y, const void* factor, const void* rates, f64 count, f64 scale, f64 decay) {
  using namespace psi;
  PSI_TRY(check_step("psi_muon_update", p && y && factor && rates, count));
  return launch("psi_muon_update", muon_kernel, flat_grid((i64)count), dim3(FLAT_THREADS), 0, (float*)p, (const float*)y, (const float*)factor, (const double*)rates, (i64)count,
                scale, decay);
}
