/* Metal's mathematical and integer functions, for scalars and, element by element, vectors. Included by metal_stdlib. */
#pragma once

namespace metal {

#define PSI_UNARY(name, expression)                                                                                  \
  template <class T>                                                                                                 \
  inline typename psi_metal::EnableIf<psi_metal::Vector<T>::size == 1, T>::type name(T v) {                          \
    float x = (float)v;                                                                                              \
    return (T)(expression);                                                                                          \
  }                                                                                                                  \
  template <class T>                                                                                                 \
  inline typename psi_metal::EnableIf<(psi_metal::Vector<T>::size > 1), T>::type name(T v) {                         \
    T r;                                                                                                             \
    for (int i = 0; i < psi_metal::Vector<T>::size; i++) r[i] = name((typename psi_metal::Vector<T>::Element)v[i]);   \
    return r;                                                                                                        \
  }
PSI_UNARY(exp, __builtin_expf(x))
PSI_UNARY(exp2, __builtin_exp2f(x))
PSI_UNARY(exp10, __builtin_powf(10.0f, x))
PSI_UNARY(log, __builtin_logf(x))
PSI_UNARY(log2, __builtin_log2f(x))
PSI_UNARY(log10, __builtin_log10f(x))
PSI_UNARY(sqrt, __builtin_sqrtf(x))
PSI_UNARY(rsqrt, 1.0f / __builtin_sqrtf(x))
PSI_UNARY(tanh, __builtin_tanhf(x))
PSI_UNARY(sinh, __builtin_sinhf(x))
PSI_UNARY(cosh, __builtin_coshf(x))
PSI_UNARY(sin, __builtin_sinf(x))
PSI_UNARY(cos, __builtin_cosf(x))
PSI_UNARY(tan, __builtin_tanf(x))
PSI_UNARY(floor, __builtin_floorf(x))
PSI_UNARY(ceil, __builtin_ceilf(x))
PSI_UNARY(rint, __builtin_rintf(x))
PSI_UNARY(round, __builtin_roundf(x))
PSI_UNARY(trunc, __builtin_truncf(x))
PSI_UNARY(fabs, __builtin_fabsf(x))
PSI_UNARY(fract, x - __builtin_floorf(x))
PSI_UNARY(sign, x > 0 ? 1.0f : x < 0 ? -1.0f : 0.0f)
#undef PSI_UNARY

template <class T>
inline T abs(T v) {
  if constexpr (psi_metal::Vector<T>::size == 1) return v < 0 ? (T)-v : v;
  else {
    T r;
    for (int i = 0; i < psi_metal::Vector<T>::size; i++) r[i] = v[i] < 0 ? -v[i] : v[i];
    return r;
  }
}

/* b given as T itself or as a scalar for all elements */
#define PSI_BINARY(name, expression)                                                                     \
  template <class T>                                                                                     \
  inline T name(T x, typename psi_metal::Identity<T>::type y) {                                          \
    if constexpr (psi_metal::Vector<T>::size == 1) {                                                     \
      T a = x, b = y;                                                                                    \
      return (T)(expression);                                                                            \
    } else {                                                                                             \
      T r;                                                                                               \
      for (int i = 0; i < psi_metal::Vector<T>::size; i++)                                               \
        r[i] = name((typename psi_metal::Vector<T>::Element)x[i], (typename psi_metal::Vector<T>::Element)y[i]); \
      return r;                                                                                          \
    }                                                                                                    \
  }
PSI_BINARY(psi_max_integer, a < b ? b : a)
PSI_BINARY(psi_min_integer, b < a ? b : a)
PSI_BINARY(fmax, __builtin_fmaxf((float)a, (float)b))
PSI_BINARY(fmin, __builtin_fminf((float)a, (float)b))
PSI_BINARY(pow, __builtin_powf((float)a, (float)b))
PSI_BINARY(powr, __builtin_powf((float)a, (float)b))
PSI_BINARY(fmod, __builtin_fmodf((float)a, (float)b))
PSI_BINARY(atan2, __builtin_atan2f((float)a, (float)b))
PSI_BINARY(copysign, __builtin_copysignf((float)a, (float)b))
PSI_BINARY(step, b < a ? 0 : 1)
#undef PSI_BINARY

template <class T>
constexpr bool psi_is_float = psi_metal::Same<typename psi_metal::Vector<T>::Element, float>::value ||
                              psi_metal::Same<typename psi_metal::Vector<T>::Element, half>::value ||
                              psi_metal::Same<typename psi_metal::Vector<T>::Element, bfloat>::value;
/* Metal resolves max(int, uint) and the like as ambiguous: both arguments must have one type. */
template <class T>
inline T max(T a, T b) {
  if constexpr (psi_is_float<T>) return fmax(a, b);
  else return psi_max_integer(a, b);
}
template <class T>
inline T min(T a, T b) {
  if constexpr (psi_is_float<T>) return fmin(a, b);
  else return psi_min_integer(a, b);
}
template <class T>
inline T clamp(T x, typename psi_metal::Identity<T>::type low, typename psi_metal::Identity<T>::type high) {
  return min(max(x, low), high);
}
template <class T>
inline T saturate(T x) {
  return clamp(x, (T)0, (T)1);
}
template <class T>
inline T mix(T a, T b, typename psi_metal::Identity<T>::type t) {
  return a + (b - a) * t;
}
template <class T>
inline T fma(T a, typename psi_metal::Identity<T>::type b, typename psi_metal::Identity<T>::type c) {
  if constexpr (psi_metal::Vector<T>::size == 1) return (T)__builtin_fmaf((float)a, (float)b, (float)c);
  else {
    T r;
    for (int i = 0; i < psi_metal::Vector<T>::size; i++) r[i] = (typename psi_metal::Vector<T>::Element)__builtin_fmaf((float)a[i], (float)b[i], (float)c[i]);
    return r;
  }
}
template <class T>
inline T mad(T a, T b, T c) {
  return fma(a, b, c);
}
template <class T>
inline T select(T a, T b, bool c) {
  return c ? b : a;
}
template <class V>
inline typename psi_metal::Vector<V>::Element dot(V a, V b) {
  typename psi_metal::Vector<V>::Element s = a[0] * b[0];
  for (int i = 1; i < psi_metal::Vector<V>::size; i++) s += a[i] * b[i];
  return s;
}
template <class V>
inline float length(V a) {
  return __builtin_sqrtf((float)dot(a, a));
}
template <class T>
inline bool isnan(T x) {
  return (float)x != (float)x;
}
template <class T>
inline bool isinf(T x) {
  return __builtin_isinf((float)x);
}
template <class T>
inline bool isfinite(T x) {
  return __builtin_isfinite((float)x);
}
inline float ldexp(float x, int e) { return __builtin_ldexpf(x, e); }

inline bool all(bool2 v) { return v[0] && v[1]; }
inline bool all(bool4 v) { return v[0] && v[1] && v[2] && v[3]; }
inline bool any(bool2 v) { return v[0] || v[1]; }
inline bool any(bool4 v) { return v[0] || v[1] || v[2] || v[3]; }

inline uint popcount(uint x) { return (uint)__builtin_popcount(x); }
inline uint clz(uint x) { return x ? (uint)__builtin_clz(x) : 32; }
inline uint ctz(uint x) { return x ? (uint)__builtin_ctz(x) : 32; }
inline uint reverse_bits(uint x) { return __builtin_bitreverse32(x); }
inline uint rotate(uint x, uint n) { return __builtin_rotateleft32(x, n); }
inline uint mulhi(uint a, uint b) { return (uint)(((ulong)a * b) >> 32); }
inline int mulhi(int a, int b) { return (int)(((long)a * b) >> 32); }
inline uint extract_bits(uint x, uint offset, uint bits) { return bits == 0 ? 0 : (x >> offset) & (bits >= 32 ? ~0u : (1u << bits) - 1); }
inline int extract_bits(int x, uint offset, uint bits) { return bits == 0 ? 0 : (int)((uint)x << (32 - bits - offset)) >> (32 - bits); }

namespace precise {
using metal::cos;
using metal::exp;
using metal::exp2;
using metal::log;
using metal::log2;
using metal::pow;
using metal::rsqrt;
using metal::sin;
using metal::sqrt;
using metal::tanh;
template <class T>
inline T divide(T a, T b) {
  return a / b;
}
}  // namespace precise
namespace fast = precise;

}  // namespace metal
