/* Barriers, functions of simdgroups, simdgroup matrices and atomics. Included by metal_stdlib. */
#pragma once

namespace metal {

enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2, mem_texture = 4 };
inline mem_flags operator|(mem_flags a, mem_flags b) { return mem_flags((int)a | (int)b); }
#define PSI_INLINE_CONVERGENT __attribute__((always_inline, convergent)) inline
PSI_INLINE_CONVERGENT void threadgroup_barrier(mem_flags f) { psi_metal::threadgroup_barrier((int)f & 3); }
PSI_INLINE_CONVERGENT void simdgroup_barrier(mem_flags f) { psi_metal::simdgroup_barrier((int)f & 3); }

/* ---- exchanges ---- */
template <class T>
inline T psi_slot(psi_metal::Slots s, unsigned i) {
  T r;
  __builtin_memcpy(&r, s.at(i), sizeof(T));
  return r;
}
template <class T>
PSI_INLINE_CONVERGENT psi_metal::Slots psi_exchange(const char* what, T v) {
  static_assert(sizeof(T) <= psi_metal::SLOT_BYTES, "fits into a slot");
  return psi_metal::exchange(what, &v, sizeof(T));
}
/* Pairs of lanes of growing distance, as hardware does: a fixed order. Lanes that do not take part are left out. */
template <class T, class F>
inline T psi_reduce(psi_metal::Slots s, F combine) {
  T v[32];
  bool there[32];
  for (unsigned i = 0; i < 32; i++) {
    there[i] = s.active >> i & 1;
    if (there[i]) v[i] = psi_slot<T>(s, i);
  }
  for (unsigned d = 16; d > 0; d /= 2)
    for (unsigned i = 0; i < d; i++) {
      if (there[i] && there[i + d]) v[i] = combine(v[i], v[i + d]);
      else if (there[i + d]) v[i] = v[i + d];
      there[i] = there[i] || there[i + d];
    }
  return v[0];
}
#define PSI_REDUCTION(name, expression)                                                       \
  template <class T>                                                                          \
  PSI_INLINE_CONVERGENT T name(T v) {                                                         \
    return psi_reduce<T>(psi_exchange(#name, v), [](T a, T b) { return (T)(expression); });   \
  }
PSI_REDUCTION(simd_sum, a + b)
PSI_REDUCTION(simd_product, a* b)
PSI_REDUCTION(simd_max, metal::max(a, b))
PSI_REDUCTION(simd_min, metal::min(a, b))
PSI_REDUCTION(simd_or, a | b)
PSI_REDUCTION(simd_and, a& b)
PSI_REDUCTION(simd_xor, a ^ b)
#undef PSI_REDUCTION

template <class T>
PSI_INLINE_CONVERGENT T simd_shuffle(T v, ushort lane) {
  return psi_slot<T>(psi_exchange("simd_shuffle", v), lane & 31);
}
template <class T>
PSI_INLINE_CONVERGENT T simd_broadcast(T v, ushort lane) {
  return psi_slot<T>(psi_exchange("simd_broadcast", v), lane & 31);
}
template <class T>
PSI_INLINE_CONVERGENT T simd_broadcast_first(T v) {
  psi_metal::Slots s = psi_exchange("simd_broadcast_first", v);
  return psi_slot<T>(s, (unsigned)__builtin_ctz(s.active));
}
template <class T>
PSI_INLINE_CONVERGENT T simd_shuffle_xor(T v, ushort mask) {
  psi_metal::Slots s = psi_exchange("simd_shuffle_xor", v);
  return psi_slot<T>(s, (s.lane ^ mask) & 31);
}
template <class T>
PSI_INLINE_CONVERGENT T simd_shuffle_down(T v, ushort delta) {
  psi_metal::Slots s = psi_exchange("simd_shuffle_down", v);
  return s.lane + delta < 32 ? psi_slot<T>(s, s.lane + delta) : v;
}
template <class T>
PSI_INLINE_CONVERGENT T simd_shuffle_up(T v, ushort delta) {
  psi_metal::Slots s = psi_exchange("simd_shuffle_up", v);
  return s.lane >= delta ? psi_slot<T>(s, s.lane - delta) : v;
}
template <class T>
PSI_INLINE_CONVERGENT T simd_prefix_inclusive_sum(T v) {
  psi_metal::Slots s = psi_exchange("simd_prefix_inclusive_sum", v);
  T r = 0;
  for (unsigned i = 0; i <= s.lane; i++)
    if (s.active >> i & 1) r += psi_slot<T>(s, i);
  return r;
}
template <class T>
PSI_INLINE_CONVERGENT T simd_prefix_exclusive_sum(T v) {
  psi_metal::Slots s = psi_exchange("simd_prefix_exclusive_sum", v);
  T r = 0;
  for (unsigned i = 0; i < s.lane; i++)
    if (s.active >> i & 1) r += psi_slot<T>(s, i);
  return r;
}
PSI_INLINE_CONVERGENT bool simd_any(bool v) { return simd_or((int)v) != 0; }
PSI_INLINE_CONVERGENT bool simd_all(bool v) { return simd_and((int)v) != 0; }
struct simd_vote {
  typedef ulong vote_t;
  ulong bits;
  explicit operator ulong() const { return bits; }
};
PSI_INLINE_CONVERGENT simd_vote simd_ballot(bool v) {
  psi_metal::Slots s = psi_exchange("simd_ballot", (int)v);
  ulong bits = 0;
  for (unsigned i = 0; i < 32; i++)
    if (s.active >> i & 1 && psi_slot<int>(s, i)) bits |= 1ul << i;
  return {bits};
}
PSI_INLINE_CONVERGENT bool simd_is_first() {
  psi_metal::Slots s = psi_exchange("simd_is_first", 0);
  return s.lane == (unsigned)__builtin_ctz(s.active);
}

/* ---- matrices of 8 x 8: two elements in each of 32 lanes ---- */
template <class T, int Columns, int Rows>
struct simdgroup_matrix {
  static_assert(Columns == 8 && Rows == 8, "simdgroup matrices are 8 x 8");
  vec<T, 2> psi_elements;
  simdgroup_matrix() = default;
  explicit simdgroup_matrix(T diagonal) {
    unsigned l = psi_metal::lane(), r = row(l), c = column(l);
    psi_elements[0] = r == c ? diagonal : (T)0;
    psi_elements[1] = r == c + 1 ? diagonal : (T)0;
  }
  vec<T, 2>& thread_elements() { return psi_elements; }
  static unsigned row(unsigned lane) { return (lane / 4 & 4) + lane / 2 % 4; }
  static unsigned column(unsigned lane) { return (lane / 4 & 2) * 2 + lane % 2 * 2; }
};
/* The lane that holds an element. */
inline unsigned psi_lane_of(unsigned row, unsigned column) {
  return ((row & 4) | (column & 4) / 2 | row / 2 % 2) * 4 + row % 2 * 2 + column / 2 % 2;
}
using simdgroup_float8x8 = simdgroup_matrix<float, 8, 8>;
using simdgroup_half8x8 = simdgroup_matrix<half, 8, 8>;

template <class T, int Columns, int Rows>
inline simdgroup_matrix<T, Columns, Rows> make_filled_simdgroup_matrix(T v) {
  simdgroup_matrix<T, Columns, Rows> m;
  m.psi_elements[0] = v;
  m.psi_elements[1] = v;
  return m;
}
template <class T>
PSI_INLINE_CONVERGENT void simdgroup_load(simdgroup_matrix<T, 8, 8>& m, const T* p, ulong elements_per_row = 8, ulong2 origin = ulong2{0, 0},
                                          bool transpose = false) {
  psi_metal::converge("simdgroup_load");
  unsigned l = psi_metal::lane();
  ulong r = m.row(l), c = m.column(l);
  for (ulong k = 0; k < 2; k++)
    m.psi_elements[k] = transpose ? p[(origin[1] + c + k) * elements_per_row + origin[0] + r]
                                  : p[(origin[1] + r) * elements_per_row + origin[0] + c + k];
}
template <class T>
PSI_INLINE_CONVERGENT void simdgroup_store(const simdgroup_matrix<T, 8, 8>& m, T* p, ulong elements_per_row = 8, ulong2 origin = ulong2{0, 0},
                                           bool transpose = false) {
  psi_metal::converge("simdgroup_store");
  unsigned l = psi_metal::lane();
  ulong r = m.row(l), c = m.column(l);
  for (ulong k = 0; k < 2; k++)
    (transpose ? p[(origin[1] + c + k) * elements_per_row + origin[0] + r] : p[(origin[1] + r) * elements_per_row + origin[0] + c + k]) =
        m.psi_elements[k];
}
/* d = a b + c, k ascending in f32 */
template <class D, class A, class B, class C>
PSI_INLINE_CONVERGENT void simdgroup_multiply_accumulate(simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a,
                                                         const simdgroup_matrix<B, 8, 8>& b, const simdgroup_matrix<C, 8, 8>& c) {
  struct Both {
    float a[2], b[2];
  };
  Both own = {{(float)a.psi_elements[0], (float)a.psi_elements[1]}, {(float)b.psi_elements[0], (float)b.psi_elements[1]}};
  psi_metal::Slots s = psi_exchange("simdgroup_multiply_accumulate", own);
  unsigned r = d.row(s.lane), column = d.column(s.lane);
  float sums[2] = {(float)c.psi_elements[0], (float)c.psi_elements[1]};
  for (unsigned k = 0; k < 8; k++) {
    const Both* left = (const Both*)s.at(psi_lane_of(r, k));
    const Both* right = (const Both*)s.at(psi_lane_of(k, column));
    float x = left->a[k % 2];
    sums[0] = __builtin_fmaf(x, right->b[0], sums[0]);
    sums[1] = __builtin_fmaf(x, right->b[1], sums[1]);
  }
  d.psi_elements[0] = (D)sums[0];
  d.psi_elements[1] = (D)sums[1];
}
template <class D, class A, class B>
PSI_INLINE_CONVERGENT void simdgroup_multiply(simdgroup_matrix<D, 8, 8>& d, const simdgroup_matrix<A, 8, 8>& a, const simdgroup_matrix<B, 8, 8>& b) {
  simdgroup_multiply_accumulate(d, a, b, make_filled_simdgroup_matrix<D, 8, 8>((D)0));
}

/* ---- atomics on 32-bit integers ---- */
enum memory_order { memory_order_relaxed };
template <class T>
struct psi_atomic {
  T value;
};
using atomic_int = psi_atomic<int>;
using atomic_uint = psi_atomic<uint>;
#define PSI_ATOMIC(name, op)                                                                                     \
  template <class T>                                                                                             \
  inline T name(volatile psi_atomic<T>* p, typename psi_metal::Identity<T>::type v, memory_order) {              \
    return (T)psi_metal::atomic(psi_metal::op, p, (uint)v, psi_metal::Same<T, int>::value);                      \
  }
PSI_ATOMIC(atomic_exchange_explicit, ATOMIC_EXCHANGE)
PSI_ATOMIC(atomic_fetch_add_explicit, ATOMIC_ADD)
PSI_ATOMIC(atomic_fetch_sub_explicit, ATOMIC_SUB)
PSI_ATOMIC(atomic_fetch_and_explicit, ATOMIC_AND)
PSI_ATOMIC(atomic_fetch_or_explicit, ATOMIC_OR)
PSI_ATOMIC(atomic_fetch_xor_explicit, ATOMIC_XOR)
PSI_ATOMIC(atomic_fetch_min_explicit, ATOMIC_MIN)
PSI_ATOMIC(atomic_fetch_max_explicit, ATOMIC_MAX)
#undef PSI_ATOMIC
template <class T>
inline T atomic_load_explicit(const volatile psi_atomic<T>* p, memory_order) {
  return (T)psi_metal::atomic(psi_metal::ATOMIC_LOAD, p, 0, false);
}
template <class T>
inline void atomic_store_explicit(volatile psi_atomic<T>* p, typename psi_metal::Identity<T>::type v, memory_order) {
  psi_metal::atomic(psi_metal::ATOMIC_STORE, p, (uint)v, false);
}
template <class T>
inline bool atomic_compare_exchange_weak_explicit(volatile psi_atomic<T>* p, T* expected, typename psi_metal::Identity<T>::type desired, memory_order,
                                                  memory_order) {
  return psi_metal::compare_exchange(p, (uint*)expected, (uint)desired);
}

}  // namespace metal
