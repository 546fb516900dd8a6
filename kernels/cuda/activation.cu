/*
 * y = act(x) * up (up absent: act(x)) and its gradient, as kernels/cpu/activation.cpp has them. Four elements a thread,
 * in f32 whatever the tensors are; with bf16 GELU is where the bytes are: 6 read and written an element, 8 backward.
 */
#include "train.cuh"

namespace psi {

enum ActivationKind : i32 { SILU, GELU, CLAMPED, RELU2 };
constexpr float GELU_SLOPE = 0.79788456080286535588f, GELU_CUBE = 0.044715f;

/* Value and slope of the activation without `up`; for `clamped` x is already clamped. */
__device__ __forceinline__ void value_and_slope(float x, i32 kind, float alpha, float& value, float& slope) {
  if (kind == GELU) {
    const float squared = x * x, t = tanh_of(GELU_SLOPE * x * fmaf(GELU_CUBE, squared, 1.0f));
    const float inner = GELU_SLOPE * fmaf(3.0f * GELU_CUBE, squared, 1.0f);
    value = 0.5f * x * (1.0f + t);
    slope = 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * inner;
  } else if (kind == RELU2) {
    const float positive = fmaxf(x, 0.0f);
    value = positive * positive;
    slope = positive + positive;
  } else {
    const float s = __fdividef(1.0f, 1.0f + exp_of(-alpha * x));
    value = x * s;
    slope = s * (1.0f + alpha * x * (1.0f - s));
  }
}

__device__ __forceinline__ float activated(float x, float up, i32 kind, float alpha, float limit) {
  if (kind == CLAMPED) x = fminf(limit, x), up = fminf(limit, fmaxf(-limit, up)) + 1.0f;
  float value, slope;
  value_and_slope(x, kind, alpha, value, slope);
  return value * up;
}

__global__ void activation_kernel(Out y, In x, In up, i32 kind, i64 count, float alpha, float limit) {
  let_next_start();
  wait_for_inputs();
  const i64 i = flat_place();
  if (i >= count) return;
  const bool whole = i + 4 <= count;
  const float4 a = some4(x, i, count - i, whole), u = up ? some4(up, i, count - i, whole) : make_float4(1, 1, 1, 1);
  put_some4(y, i, count - i, whole,
            make_float4(activated(a.x, u.x, kind, alpha, limit), activated(a.y, u.y, kind, alpha, limit), activated(a.z, u.z, kind, alpha, limit),
                        activated(a.w, u.w, kind, alpha, limit)));
}

__device__ __forceinline__ void activated_grad(float d, float x, float given, i32 kind, float alpha, float limit, float& below, float& beside) {
  float value, slope, up = given;
  if (kind == CLAMPED) up = fminf(limit, fmaxf(-limit, given)) + 1.0f;
  value_and_slope(kind == CLAMPED ? fminf(limit, x) : x, kind, alpha, value, slope);
  below = kind == CLAMPED && x > limit ? 0.0f : d * up * slope;
  beside = kind == CLAMPED && fabsf(given) > limit ? 0.0f : d * value;
}

__global__ void activation_grad_kernel(Out dx, Out dup, In dy, In x, In up, i32 kind, i64 count, float alpha, float limit) {
  let_next_start();
  wait_for_inputs();
  const i64 i = flat_place();
  if (i >= count) return;
  const bool whole = i + 4 <= count;
  const float4 a = some4(x, i, count - i, whole), d = some4(dy, i, count - i, whole), u = up ? some4(up, i, count - i, whole) : make_float4(1, 1, 1, 1);
  float4 below, beside;
  activated_grad(d.x, a.x, u.x, kind, alpha, limit, below.x, beside.x);
  activated_grad(d.y, a.y, u.y, kind, alpha, limit, below.y, beside.y);
  activated_grad(d.z, a.z, u.z, kind, alpha, limit, below.z, beside.z);
  activated_grad(d.w, a.w, u.w, kind, alpha, limit, below.w, beside.w);
  put_some4(dx, i, count - i, whole, below);
  if (dup) put_some4(dup, i, count - i, whole, beside);
}

static i32 check_activation(const char* where, bool pointers, const void* up, i32 kind, i32 dtype, f64 count, f64 limit) {
  PSI_REFUSE_F64(where, dtype);
  if (!pointers || kind < 0 || kind > 3 || !(count >= 0) || (kind == CLAMPED && (!up || !(limit > 0))))
    return fail(PSI_INVALID, "[%s] expected pointers, a kind of 0..3 and, for kind 2, up and a limit above 0, got kind %d, count %.0f, limit %g.", where, kind, count, limit);
  return PSI_OK;
}

}  // namespace psi

PSI_API i32 psi_activation(void* y, const void* x, const void* up, i32 kind, i32 dtype, f64 count, f64 alpha, f64 limit) {
  using namespace psi;
  PSI_TRY(check_activation("psi_activation", y && x, up, kind, dtype, count, limit));
  return launch("psi_activation", activation_kernel, flat_grid((i64)count), dim3(FLAT_THREADS), 0, Out{y, half_at(dtype, 0)}, In{x, half_at(dtype, 1)},
                In{up, half_at(dtype, 2)}, kind, (i64)count, kind == CLAMPED ? (float)alpha : 1.0f, (float)limit);
}
PSI_API i32 psi_activation_grad(void* dx, void* dup, const void* dy, const void* x, const void* up, i32 kind, i32 dtype, f64 count, f64 alpha, f64 limit) {
  using namespace psi;
  PSI_TRY(check_activation("psi_activation_grad", dx && dy && x && (!dup || up), up, kind, dtype, count, limit));
  return launch("psi_activation_grad", activation_grad_kernel, flat_grid((i64)count), dim3(FLAT_THREADS), 0, Out{dx, half_at(dtype, 0)},
                Out{dup, half_at(dtype, 1)}, In{dy, half_at(dtype, 2)}, In{x, half_at(dtype, 3)}, In{up, half_at(dtype, 4)}, kind, (i64)count,
                kind == CLAMPED ? (float)alpha : 1.0f, (float)limit);
}
