/*
 * Attention of sequences over themselves, forward and backward, in tiles of 64 x 64; scores never exist whole.
 *   s = scale q.k (cap tanh(s/cap) with a soft-cap), p = exp(s - lse), y = sum p v;  lse counts exp(sink) where there are sinks
 *   D = dy.(y + rest), dv += p dy, ds = p (dy.v - D) scale (1 - (s/cap)^2), dq += ds k, dk += ds q, dsink -= exp(sink - lse) D
 *   rest: what rounding to y's type took from y; no kernel here rounds, so only the references have any
 * Forward (FlashAttention-2, arXiv:2307.08691): a task is 64 rows of one head, its softmax running over blocks of keys.
 * Backward: a task is one key head of one sequence and walks blocks of keys, then its heads, then blocks of rows, so
 * every sum has one writer and one order. Rows see first[row] (or 0) .. themselves, the last `window` of them.
 */
#include <math.h>

#include "../common/pool.h"
#include "../common/tanh.h"
#include "train.h"

namespace psi {
struct CausalAttention {
  i64 sequences, length, heads, kv_heads, head_dim, window;
  float scale, softcap;
  const float *q, *k, *v, *sinks;
  const i32* first;
  float *y, *lse, *rest; /* rest null: not wanted, or none */
};
struct CausalAttentionGrad {
  CausalAttention of;
  const float* dy;
  float *dq, *dk, *dv, *sink_parts; /* parts [sequences, heads] or null */
};
}  // namespace psi

PSI_KERNEL(causal_forward, const CausalAttention& c)
PSI_KERNEL(causal_backward, const CausalAttentionGrad& c)

namespace psi::PSI_ISA {

constexpr i64 SIDE = 64, WIDEST = 256;
static_assert((3 * SIDE * WIDEST + 3 * SIDE * SIDE + 4 * SIDE) * 4 <= THREAD_SCRATCH, "a task's tiles fit its scratch");

/* C [m,n] rows ldc += A' B, or = it: A'[i,p] = a[i*row + p*col], B [k,n] rows ldb. */
template <int R, int V>
PSI_INLINE void strip(float* c, i64 ldc, const float* a, i64 row, i64 col, const float* b, i64 ldb, i64 k, int lanes, bool add) {
  vf acc[R][V];
  unroll<R>([&](auto i) PSI_LAMBDA {
    unroll<V>([&](auto j) PSI_LAMBDA { acc[i][j] = !add ? zero() : V > 1 ? load(c + i * ldc + 16 * j) : load_n(c + i * ldc, lanes); });
  });
  for (i64 p = 0; p < k; p++) {
    vf v[V];
    unroll<V>([&](auto j) PSI_LAMBDA { v[j] = V > 1 ? load(b + p * ldb + 16 * j) : load_n(b + p * ldb, lanes); });
    unroll<R>([&](auto i) PSI_LAMBDA {
      const vf s = set1(a[i * row + p * col]);
      unroll<V>([&](auto j) PSI_LAMBDA { acc[i][j] = fma(s, v[j], acc[i][j]); });
    });
  }
  unroll<R>([&](auto i) PSI_LAMBDA {
    unroll<V>([&](auto j) PSI_LAMBDA {
      if (V > 1) store(c + i * ldc + 16 * j, acc[i][j]);
      else store_n(c + i * ldc, acc[i][j], lanes);
    });
  });
}
static void tile_product(float* c, i64 ldc, const float* a, i64 row, i64 col, const float* b, i64 ldb, i64 m, i64 n, i64 k, bool add) {
  i64 j = 0;
  for (; j + 32 <= n; j += 32) {
    i64 i = 0;
    for (; i + 4 <= m; i += 4) strip<4, 2>(c + i * ldc + j, ldc, a + i * row, row, col, b + j, ldb, k, 16, add);
    for (; i < m; i++) strip<1, 2>(c + i * ldc + j, ldc, a + i * row, row, col, b + j, ldb, k, 16, add);
  }
  for (; j < n; j += 16) {
    const int lanes = (int)(n - j < 16 ? n - j : 16);
    i64 i = 0;
    for (; i + 4 <= m; i += 4) strip<4, 1>(c + i * ldc + j, ldc, a + i * row, row, col, b + j, ldb, k, lanes, add);
    for (; i < m; i++) strip<1, 1>(c + i * ldc + j, ldc, a + i * row, row, col, b + j, ldb, k, lanes, add);
  }
}

/* to [width][SIDE] from `rows` rows of `width`, rows ld apart; columns beyond are zero. */
static void transposed(float* to, const float* from, i64 rows, i64 width, i64 ld) {
  for (i64 i = 0; i < SIDE; i++)
    for (i64 e = 0; e < width; e++) to[e * SIDE + i] = i < rows ? from[i * ld + e] : 0;
}

PSI_INLINE i64 first_seen(const CausalAttention& c, i64 sequence, i64 row) {
  i64 first = c.first ? c.first[sequence * c.length + row] : 0;
  if (c.window > 0 && row - c.window + 1 > first) first = row - c.window + 1;
  return first;
}

PSI_INLINE vf capped(const CausalAttention& c, vf s) {
  s = s * set1(c.scale);
  return c.softcap > 0 ? set1(c.softcap) * tanh(s / set1(c.softcap)) : s;
}

/* One row of probabilities from scores: zero outside [from, to). */
PSI_INLINE void probabilities(float* p, vf score, i64 j, i64 from, i64 to, float reference) {
  float lanes[16];
  store(lanes, exp(score - set1(reference)));
  for (i64 l = 0; l < 16; l++) p[j + l] = j + l >= from && j + l < to ? lanes[l] : 0;
}

void causal_forward(const CausalAttention& c) {
  const i64 blocks = (c.length + SIDE - 1) / SIDE, wide = c.heads * c.head_dim, narrow = c.kv_heads * c.head_dim, E = c.head_dim;
  parallel(c.sequences * c.heads * blocks, [&](i64 task, int thread) {
    const i64 sequence = task / (c.heads * blocks), h = task / blocks % c.heads, kv = h / (c.heads / c.kv_heads);
    const i64 r0 = task % blocks * SIDE, rows = c.length - r0 < SIDE ? c.length - r0 : SIDE;
    float* keys = (float*)thread_scratch(thread);
    float* s = keys + SIDE * WIDEST;
    float *most = s + SIDE * SIDE, *sum = most + SIDE;
    const i64 base = sequence * c.length;
    const float* q = c.q + (base + r0) * wide + h * E;
    float* y = c.y + (base + r0) * wide + h * E;
    i64 begin = r0 + rows;
    for (i64 i = 0; i < rows; i++) {
      most[i] = c.sinks ? c.sinks[h] : -INFINITY;
      sum[i] = c.sinks ? 1 : 0;
      memset(y + i * wide, 0, (size_t)E * 4);
      if (c.rest) memset(c.rest + (base + r0 + i) * wide + h * E, 0, (size_t)E * 4);
      const i64 seen = first_seen(c, sequence, r0 + i);
      if (seen < begin) begin = seen;
    }
    for (i64 k0 = begin / SIDE * SIDE; k0 < r0 + rows; k0 += SIDE) {
      const i64 columns = c.length - k0 < SIDE ? c.length - k0 : SIDE;
      transposed(keys, c.k + (base + k0) * narrow + kv * E, columns, E, narrow);
      tile_product(s, SIDE, q, wide, 1, keys, SIDE, rows, SIDE, E, false);
      for (i64 i = 0; i < rows; i++) {
        float* row = s + i * SIDE;
        const i64 seen = first_seen(c, sequence, r0 + i) - k0, from = seen > 0 ? seen : 0;
        const i64 end = r0 + i + 1 - k0, to = end < columns ? end : columns;
        if (from >= to) {
          memset(row, 0, SIDE * 4);
          continue;
        }
        for (i64 j = 0; j < SIDE; j += 16) store(row + j, capped(c, load(row + j)));
        float largest = most[i];
        for (i64 j = from; j < to; j++) largest = row[j] > largest ? row[j] : largest;
        const float shrink = expf(most[i] - largest);
        for (i64 j = 0; j < SIDE; j += 16) probabilities(row, load(row + j), j, from, to, largest);
        vf part = zero();
        for (i64 j = 0; j < SIDE; j += 16) part = part + load(row + j);
        sum[i] = sum[i] * shrink + hsum(part);
        most[i] = largest;
        if (shrink != 1)
          for (i64 e = 0; e < E; e++) y[i * wide + e] *= shrink;
      }
      tile_product(y, wide, s, SIDE, 1, c.v + (base + k0) * narrow + kv * E, narrow, rows, E, columns, true);
    }
    for (i64 i = 0; i < rows; i++) {
      for (i64 e = 0; e < E; e++) y[i * wide + e] /= sum[i];
      c.lse[(base + r0 + i) * c.heads + h] = most[i] + logf(sum[i]);
    }
  });
}

void causal_backward(const CausalAttentionGrad& g) {
  const CausalAttention& c = g.of;
  const i64 wide = c.heads * c.head_dim, narrow = c.kv_heads * c.head_dim, E = c.head_dim, group = c.heads / c.kv_heads;
  parallel(c.sequences * c.kv_heads, [&](i64 task, int thread) {
    const i64 sequence = task / c.kv_heads, kv = task % c.kv_heads, base = sequence * c.length;
    float* keys = (float*)thread_scratch(thread);
    float* values = keys + SIDE * WIDEST;
    float *p = values + SIDE * WIDEST, *ds = p + SIDE * SIDE;
    for (i64 t = 0; t < c.length; t++) {
      memset(g.dq + (base + t) * wide + kv * group * E, 0, (size_t)(group * E) * 4);
      memset(g.dk + (base + t) * narrow + kv * E, 0, (size_t)E * 4);
      memset(g.dv + (base + t) * narrow + kv * E, 0, (size_t)E * 4);
    }
    for (i64 k0 = 0; k0 < c.length; k0 += SIDE) {
      const i64 columns = c.length - k0 < SIDE ? c.length - k0 : SIDE, at = (base + k0) * narrow + kv * E;
      transposed(keys, c.k + at, columns, E, narrow);
      transposed(values, c.v + at, columns, E, narrow);
      for (i64 h = kv * group; h < (kv + 1) * group; h++)
        for (i64 r0 = k0; r0 < c.length; r0 += SIDE) {
          if (c.window > 0 && r0 - c.window + 1 >= k0 + columns) break;
          const i64 rows = c.length - r0 < SIDE ? c.length - r0 : SIDE, from_row = (base + r0) * wide + h * E;
          tile_product(p, SIDE, c.q + from_row, wide, 1, keys, SIDE, rows, SIDE, E, false);
          tile_product(ds, SIDE, g.dy + from_row, wide, 1, values, SIDE, rows, SIDE, E, false);
          for (i64 i = 0; i < rows; i++) {
            const i64 seen = first_seen(c, sequence, r0 + i) - k0, from = seen > 0 ? seen : 0;
            const i64 end = r0 + i + 1 - k0, to = end < columns ? end : columns;
            vf delta = zero();
            for (i64 e = 0; e < E; e += 16) {
              const int lanes = (int)(E - e < 16 ? E - e : 16);
              const i64 at_e = from_row + i * wide + e;
              const vf y = load_n(c.y + at_e, lanes);
              delta = fma(load_n(g.dy + at_e, lanes), c.rest ? y + load_n(c.rest + at_e, lanes) : y, delta);
            }
            const vf d = set1(hsum(delta));
            const float lse = c.lse[(base + r0 + i) * c.heads + h];
            for (i64 j = 0; j < SIDE; j += 16) {
              const vf score = capped(c, load(p + i * SIDE + j)), above = load(ds + i * SIDE + j) - d;
              probabilities(p + i * SIDE, score, j, from, to, lse);
              vf slope = set1(c.scale);
              if (c.softcap > 0) slope = slope * (set1(1) - score * score / set1(c.softcap * c.softcap));
              store(ds + i * SIDE + j, load(p + i * SIDE + j) * above * slope);
            }
          }
          tile_product(g.dv + at, narrow, p, 1, SIDE, g.dy + from_row, wide, columns, E, rows, true);
          tile_product(g.dk + at, narrow, ds, 1, SIDE, c.q + from_row, wide, columns, E, rows, true);
          tile_product(g.dq + from_row, wide, ds, SIDE, 1, c.k + at, narrow, rows, E, columns, true);
        }
    }
    if (!g.sink_parts) return;
    for (i64 h = kv * group; h < (kv + 1) * group; h++) {
      float part = 0;
      for (i64 t = 0; t < c.length; t++) {
        const i64 row = (base + t) * wide + h * E;
        float delta = 0;
        for (i64 e = 0; e < E; e++) delta += g.dy[row + e] * (c.rest ? c.y[row + e] + c.rest[row + e] : c.y[row + e]);
        part -= expf(c.sinks[h] - c.lse[(base + t) * c.heads + h]) * delta;
      }
      g.sink_parts[sequence * c.heads + h] = part;
    }
  });
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
template <class T>
struct Shape {
  i64 sequences, length, heads, kv_heads, head_dim, window;
  double scale, cap;
  const T *q, *k, *v, *sinks;
  const i32* first;

  i64 wide() const { return heads * head_dim; }
  i64 narrow() const { return kv_heads * head_dim; }
  i64 seen_from(i64 sequence, i64 row) const {
    i64 from = first ? first[sequence * length + row] : 0;
    return window > 0 && row - window + 1 > from ? row - window + 1 : from;
  }
  double score(i64 row, i64 key, i64 h) const {
    double sum = 0;
    const T *a = q + row * wide() + h * head_dim, *b = k + key * narrow() + h / (heads / kv_heads) * head_dim;
    for (i64 e = 0; e < head_dim; e++) sum += (double)a[e] * b[e];
    return cap > 0 ? cap * tanh(scale * sum / cap) : scale * sum;
  }
};

template <class T>
static void plain(T* y, T* lse, T* rest, const Shape<T>& c) {
  for (i64 s = 0; s < c.sequences; s++)
    for (i64 i = 0; i < c.length; i++)
      for (i64 h = 0; h < c.heads; h++) {
        const i64 row = s * c.length + i, from = c.seen_from(s, i);
        double most = c.sinks ? c.sinks[h] : -INFINITY;
        for (i64 j = from; j <= i; j++) most = fmax(most, c.score(row, s * c.length + j, h));
        double sum = c.sinks ? exp(c.sinks[h] - most) : 0;
        for (i64 j = from; j <= i; j++) sum += exp(c.score(row, s * c.length + j, h) - most);
        T* out = y + row * c.wide() + h * c.head_dim;
        for (i64 e = 0; e < c.head_dim; e++) {
          double total = 0;
          for (i64 j = from; j <= i; j++)
            total += exp(c.score(row, s * c.length + j, h) - most) / sum * c.v[(s * c.length + j) * c.narrow() + h / (c.heads / c.kv_heads) * c.head_dim + e];
          out[e] = (T)total;
          if (rest) rest[row * c.wide() + h * c.head_dim + e] = (T)(total - (double)out[e]);
        }
        lse[row * c.heads + h] = (T)(most + log(sum));
      }
}

template <class T>
static void plain_grad(T* dq, T* dk, T* dv, T* dsinks, const T* dy, const T* y, const T* lse, const T* rest, const Shape<T>& c) {
  const i64 rows = c.sequences * c.length;
  for (i64 n = 0; n < rows * c.wide(); n++) dq[n] = 0;
  for (i64 n = 0; n < rows * c.narrow(); n++) dk[n] = dv[n] = 0;
  for (i64 s = 0; s < c.sequences; s++)
    for (i64 i = 0; i < c.length; i++)
      for (i64 h = 0; h < c.heads; h++) {
        const i64 row = s * c.length + i, at = row * c.wide() + h * c.head_dim;
        double d = 0;
        for (i64 e = 0; e < c.head_dim; e++) d += (double)dy[at + e] * (rest ? (double)y[at + e] + rest[at + e] : (double)y[at + e]);
        if (dsinks) dsinks[h] -= (T)(exp((double)c.sinks[h] - lse[row * c.heads + h]) * d);
        for (i64 j = c.seen_from(s, i); j <= i; j++) {
          const i64 key = (s * c.length + j) * c.narrow() + h / (c.heads / c.kv_heads) * c.head_dim;
          const double score = c.score(row, s * c.length + j, h), p = exp(score - lse[row * c.heads + h]);
          double dp = 0;
          for (i64 e = 0; e < c.head_dim; e++) dp += (double)dy[at + e] * c.v[key + e];
          const double slope = c.cap > 0 ? 1 - score * score / (c.cap * c.cap) : 1, ds = p * (dp - d) * slope * c.scale;
          for (i64 e = 0; e < c.head_dim; e++) {
            dv[key + e] += (T)(p * dy[at + e]);
            dq[at + e] += (T)(ds * c.k[key + e]);
            dk[key + e] += (T)(ds * c.q[at + e]);
          }
        }
      }
}

PSI_API i32 psi_causal_attention_ref(void* y, void* lse, void* rest, const void* q, const void* k, const void* v, const void* sinks, const void* first, i32 sequences, i32 length, i32 heads, i32 kv_heads, i32 head_dim, i32 window, i32 dtype, f64 scale, f64 softcap) {
  PSI_WITH_REAL(dtype, T, plain((T*)y, (T*)lse, (T*)rest, Shape<T>{sequences, length, heads, kv_heads, head_dim, window, scale, softcap, (const T*)q, (const T*)k, (const T*)v, (const T*)sinks, (const i32*)first}));
  return PSI_OK;
}
PSI_API i32 psi_causal_attention_grad_ref(void* dq, void* dk, void* dv, void* dsinks, const void* dy, const void* q, const void* k, const void* v, const void* y, const void* lse, const void* rest, const void* sinks, const void* first, void*, i32 sequences, i32 length, i32 heads, i32 kv_heads, i32 head_dim, i32 window, i32 dtype, f64 scale, f64 softcap, f64) {
  PSI_WITH_REAL(dtype, T, plain_grad((T*)dq, (T*)dk, (T*)dv, (T*)dsinks, (const T*)dy, (const T*)y, (const T*)lse, (const T*)rest, Shape<T>{sequences, length, heads, kv_heads, head_dim, window, scale, softcap, (const T*)q, (const T*)k, (const T*)v, (const T*)sinks, (const i32*)first}));
  return PSI_OK;
}

static i32 check(const char* where, bool pointers, const i32* first, i32 sequences, i32 length, i32 heads, i32 kv_heads, i32 head_dim, i32 window, i32 dtype, f64 softcap) {
  if (!pointers || sequences < 0 || length < 1 || heads < 1 || kv_heads < 1 || heads % kv_heads || head_dim < 1 || head_dim > 256 || window < 0 || !(softcap >= 0) || !psi::is_real(dtype))
    return psi::fail(PSI_INVALID, "[%s] expected pointers, f32 or f64, heads in multiples of the key heads, a head width of 1..256 and a window and soft-cap of at least 0, got sequences %d, length %d, heads %d, kv_heads %d, head_dim %d, window %d, dtype %d.", where, sequences, length, heads, kv_heads, head_dim, window, dtype);
  for (i64 r = 0; first && r < (i64)sequences * length; r++)
    if (first[r] < 0 || first[r] > r % length)
      return psi::fail(PSI_INVALID, "[%s] expected first positions from 0 to the row's own, got %d at row %lld.", where, first[r], (long long)r);
  return PSI_OK;
}

PSI_API i32 psi_causal_attention(void* y, void* lse, void* rest, const void* q, const void* k, const void* v, const void* sinks, const void* first, i32 sequences, i32 length, i32 heads, i32 kv_heads, i32 head_dim, i32 window, i32 dtype, f64 scale, f64 softcap) {
  PSI_OPENED("psi_causal_attention");
  i32 status = check("psi_causal_attention", y && lse && q && k && v, (const i32*)first, sequences, length, heads, kv_heads, head_dim, window, dtype, softcap);
  if (status != PSI_OK) return status;
  if (dtype == psi::F64) return psi_causal_attention_ref(y, lse, rest, q, k, v, sinks, first, sequences, length, heads, kv_heads, head_dim, window, dtype, scale, softcap);
  PSI_RUN(causal_forward)({sequences, length, heads, kv_heads, head_dim, window, (float)scale, (float)softcap, (const float*)q, (const float*)k, (const float*)v, (const float*)sinks, (const i32*)first, (float*)y, (float*)lse, (float*)rest});
  return PSI_OK;
}

PSI_API i32 psi_causal_attention_grad(void* dq, void* dk, void* dv, void* dsinks, const void* dy, const void* q, const void* k, const void* v, const void* y, const void* lse, const void* rest, const void* sinks, const void* first, void* scratch, i32 sequences, i32 length, i32 heads, i32 kv_heads, i32 head_dim, i32 window, i32 dtype, f64 scale, f64 softcap, f64 scratch_bytes) {
  PSI_OPENED("psi_causal_attention_grad");
  i32 status = check("psi_causal_attention_grad", dq && dk && dv && dy && q && k && v && y && lse && (sinks || !dsinks), (const i32*)first, sequences, length, heads, kv_heads, head_dim, window, dtype, softcap);
  if (status != PSI_OK) return status;
  if (dtype == psi::F64) return psi_causal_attention_grad_ref(dq, dk, dv, dsinks, dy, q, k, v, y, lse, rest, sinks, first, nullptr, sequences, length, heads, kv_heads, head_dim, window, dtype, scale, softcap, 0);
  if (dsinks && (!scratch || scratch_bytes < 8.0 * sequences * heads))
    return psi::fail(PSI_INVALID, "[psi_causal_attention_grad] expected %.0f bytes of scratch, got %.0f.", 8.0 * sequences * heads, scratch_bytes);
  float* parts = dsinks ? (float*)scratch : nullptr;
  PSI_RUN(causal_backward)({{sequences, length, heads, kv_heads, head_dim, window, (float)scale, (float)softcap, (const float*)q, (const float*)k, (const float*)v, (const float*)sinks, (const i32*)first, (float*)y, (float*)lse, (float*)rest}, (const float*)dy, (float*)dq, (float*)dk, (float*)dv, parts});
  for (i64 s = 0; parts && s < sequences; s++)
    for (i64 h = 0; h < heads; h++) ((float*)dsinks)[h] += parts[s * heads + h];
  return PSI_OK;
}
#endif
