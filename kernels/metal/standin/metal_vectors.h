/* Metal's vector types, packed types and conversions between them. Included by metal_stdlib. */
#pragma once

namespace psi_metal {
template <class A, class B>
struct Same {
  static constexpr bool value = false;
};
template <class A>
struct Same<A, A> {
  static constexpr bool value = true;
};
template <class T>
struct Identity {
  using type = T;
};
template <bool C, class T>
struct EnableIf {};
template <class T>
struct EnableIf<true, T> {
  using type = T;
};
template <class V>
struct Vector {
  static constexpr int size = 1;
  using Element = V;
};
template <class T, int N>
struct Vector<T __attribute__((ext_vector_type(N)))> {
  static constexpr int size = N;
  using Element = T;
};
template <class T>
struct Bits; /* the integer vector that comparisons of T's vectors give */
}  // namespace psi_metal

namespace metal {
template <class T, int N>
using vec = T __attribute__((ext_vector_type(N)));
}

#define PSI_VECTORS(T)                 \
  using T##2 = metal::vec<T, 2>;       \
  using T##3 = metal::vec<T, 3>;       \
  using T##4 = metal::vec<T, 4>;
PSI_VECTORS(float)
PSI_VECTORS(half)
PSI_VECTORS(bfloat)
PSI_VECTORS(char)
PSI_VECTORS(uchar)
PSI_VECTORS(short)
PSI_VECTORS(ushort)
PSI_VECTORS(int)
PSI_VECTORS(uint)
PSI_VECTORS(long)
PSI_VECTORS(ulong)
PSI_VECTORS(bool)
#undef PSI_VECTORS

/* Arrays of these need only their element's alignment. */
template <class T, int N>
struct psi_packed {
  T v[N];
  psi_packed() = default;
  psi_packed(metal::vec<T, N> x) {
    for (int i = 0; i < N; i++) v[i] = x[i];
  }
  operator metal::vec<T, N>() const {
    metal::vec<T, N> r;
    for (int i = 0; i < N; i++) r[i] = v[i];
    return r;
  }
  T& operator[](int i) { return v[i]; }
  const T& operator[](int i) const { return v[i]; }
};
#define PSI_PACKED_VECTORS(T)               \
  using packed_##T##2 = psi_packed<T, 2>;   \
  using packed_##T##3 = psi_packed<T, 3>;   \
  using packed_##T##4 = psi_packed<T, 4>;
PSI_PACKED_VECTORS(float)
PSI_PACKED_VECTORS(half)
PSI_PACKED_VECTORS(char)
PSI_PACKED_VECTORS(uchar)
PSI_PACKED_VECTORS(short)
PSI_PACKED_VECTORS(ushort)
PSI_PACKED_VECTORS(int)
PSI_PACKED_VECTORS(uint)
#undef PSI_PACKED_VECTORS

template <class V, class X>
inline void psi_put(V& r, int& k, X x) {
  using E = typename psi_metal::Vector<V>::Element;
  if constexpr (psi_metal::Vector<X>::size == 1) r[k++] = (E)x;
  else
    for (int i = 0; i < psi_metal::Vector<X>::size; i++) r[k++] = (E)x[i];
}
template <class T, int N>
inline metal::vec<T, N> psi_plain(psi_packed<T, N> x) {
  return x;
}
template <class T>
inline T psi_plain(T x) {
  return x;
}
/* The constructor calls of Metal's vectors: one scalar for all, a vector of another type, or parts. */
template <class V, class... A>
inline V psi_make(A... a) {
  V r;
  if constexpr (sizeof...(A) == 0) r = (V)0;
  else if constexpr (sizeof...(A) == 1) {
    auto x = (psi_plain(a), ...);
    using X = decltype(x);
    using E = typename psi_metal::Vector<V>::Element;
    if constexpr (psi_metal::Vector<X>::size == 1)
      for (int i = 0; i < psi_metal::Vector<V>::size; i++) r[i] = (E)x;
    else {
      static_assert(psi_metal::Vector<X>::size == psi_metal::Vector<V>::size, "a vector converts to one of as many elements");
      for (int i = 0; i < psi_metal::Vector<V>::size; i++) r[i] = (E)x[i];
    }
  } else {
    int k = 0;
    static_assert((psi_metal::Vector<decltype(psi_plain(a))>::size + ...) == psi_metal::Vector<V>::size, "as many parts as elements");
    (psi_put(r, k, psi_plain(a)), ...);
  }
  return r;
}

namespace metal {
template <class To, class From>
inline To as_type(From f) {
  static_assert(sizeof(To) == sizeof(From), "as_type keeps the size");
  return __builtin_bit_cast(To, f);
}

template <class T, unsigned long N>
struct array {
  T v[N];
  T& operator[](unsigned long i) { return v[i]; }
  const T& operator[](unsigned long i) const { return v[i]; }
};

template <class T>
struct numeric_limits;
template <>
struct numeric_limits<float> {
  static constexpr float max() { return 3.402823466e+38f; }
  static constexpr float lowest() { return -3.402823466e+38f; }
  static constexpr float infinity() { return __builtin_inff(); }
};
template <>
struct numeric_limits<int> {
  static constexpr int max() { return 2147483647; }
  static constexpr int lowest() { return -2147483647 - 1; }
};
}  // namespace metal
