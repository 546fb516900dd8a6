/*
 * Gated delta rule (arXiv:2412.06464), the recurrent form, for each value head with S f32 [key_dim, value_dim]:
 *   S = exp(g) S; u = beta (v - S^T k); S += k u^T; y = S^T q     g = decay * softplus(a + dt_bias), beta = sigmoid(b)
 * with k / sqrt(|k|^2 + 1e-6) and q / sqrt(|q|^2 + 1e-6) / sqrt(key_dim); layouts in ffi/psionic.h. One walk over S a
 * token: the state before it gives P = S^T k and O = S^T q of the raw k and q, from which u and y = exp(g) O + (k.q) u
 * follow; the walk that then writes S makes P and O of the next token at once. Sums over key_dim: one f32 chain a column,
 * rows ascending. The gates are taken in f64.
 * Tasks: pieces of 64 columns of a head of a sequence; the piece of S (at most 64 KiB) stays in the thread's scratch
 * while more tokens follow.
 */
#include <math.h>

#include "../common/pool.h"
#include "../common/simd.h"
#include "recurrent.h"

namespace psi {
constexpr i64 MAX_KEY_DIM = 256;
struct GatedDeltaRule {
  float *y, *state;
  const float *qkv, *a, *b, *decay, *dt_bias;
  Recurrent r;
  i64 stride, q_offset, k_offset, v_offset, a_stride, a_offset, b_stride, b_offset;
  i64 key_heads, value_heads, key_dim, value_dim;
  bool tiled;
};

/* What a token brings to a value head; the factors take the lengths of k and q in. */
struct DeltaToken {
  const float *q, *k, *v;
  float decay, predict, write, read, direct;
};
}  // namespace psi

PSI_KERNEL(gated_delta_rule, const GatedDeltaRule& a)

namespace psi::PSI_ISA {

static float dot(const float* x, const float* y, i64 n) {
  vf sum = zero();
  for (i64 i = 0; i < n; i += 16) {
    const int m = (int)(n - i < 16 ? n - i : 16);
    sum = fma(load_n(x + i, m), load_n(y + i, m), sum);
  }
  return hsum(sum);
}

static DeltaToken token_of(const GatedDeltaRule& a, i64 t, i64 h) {
  const i64 key_head = a.tiled ? h % a.key_heads : h / (a.value_heads / a.key_heads);
  const float* row = a.qkv + t * a.stride;
  DeltaToken d;
  d.q = row + a.q_offset + key_head * a.key_dim;
  d.k = row + a.k_offset + key_head * a.key_dim;
  d.v = row + a.v_offset + h * a.value_dim;
  const double raw = (double)a.a[t * a.a_stride + a.a_offset + h] + a.dt_bias[h];
  const double softplus = raw > 30 ? raw : ::log1p(::exp(raw));
  const double beta = 1 / (1 + ::exp(-(double)a.b[t * a.b_stride + a.b_offset + h]));
  d.decay = (float)::exp(a.decay[h] * softplus);
  const float k_scale = 1.0f / sqrtf(dot(d.k, d.k, a.key_dim) + 1e-6f);
  const float q_scale = 1.0f / sqrtf((dot(d.q, d.q, a.key_dim) + 1e-6f) * (float)a.key_dim);
  d.predict = d.decay * k_scale;
  d.write = (float)beta * k_scale;
  d.read = d.decay * q_scale;
  d.direct = dot(d.k, d.q, a.key_dim) * q_scale;
  return d;
}

/* A piece of S: rows of `stride` floats. */
struct Piece {
  float* at;
  i64 stride;
};

/*
 * V vectors of columns, or one of `m` lanes where they are not WHOLE. UPDATE: S = decay S + k u^T of token d, from one place to another.
 * NEXT: then P and O of token n.
 */
template <int V, bool WHOLE, bool UPDATE, bool NEXT>
PSI_INLINE void walk(Piece from, Piece to, i64 rows, int m, const DeltaToken& d, const vf* u, const DeltaToken& n, vf* p, vf* o) {
  if constexpr (NEXT) unroll<V>([&](auto i) PSI_LAMBDA { p[i] = zero(), o[i] = zero(); });
  const vf decay = UPDATE ? set1(d.decay) : zero();
  for (i64 r = 0; r < rows; r++) {
    const float *in = from.at + r * from.stride;
    float* out = to.at + r * to.stride;
    const vf k = UPDATE ? set1(d.k[r]) : zero(), next_k = NEXT ? set1(n.k[r]) : zero(), next_q = NEXT ? set1(n.q[r]) : zero();
    unroll<V>([&](auto i) PSI_LAMBDA {
      vf s = WHOLE ? load(in + 16 * i) : load_n(in, m);
      if constexpr (UPDATE) {
        s = fma(k, u[i], decay * s);
        if constexpr (WHOLE) store(out + 16 * i, s);
        else store_n(out, s, m);
      }
      if constexpr (NEXT) {
        p[i] = fma(s, next_k, p[i]);
        o[i] = fma(s, next_q, o[i]);
      }
    });
  }
}

/* All tokens of a run for V vectors of columns from `column` on. */
template <int V, bool WHOLE>
static void columns(const GatedDeltaRule& a, Run run, i64 h, i64 column, int m, float* scratch) {
  const Piece state = {a.state + ((a.r.slot_of(run.first) * a.value_heads + h) * a.key_dim) * a.value_dim + column, a.value_dim};
  const Piece kept = {scratch, 16 * V};
  if (a.r.position[run.first] == 0)
    for (i64 r = 0; r < a.key_dim; r++) memset(state.at + r * state.stride, 0, (size_t)(WHOLE ? 16 * V : m) * 4);
  DeltaToken d = token_of(a, run.first, h);
  vf p[V], o[V], u[V];
  walk<V, WHOLE, false, true>(state, state, a.key_dim, m, d, u, d, p, o);
  for (i64 i = 0; i < run.count; i++) {
    float* y = a.y + ((run.first + i) * a.value_heads + h) * a.value_dim + column;
    unroll<V>([&](auto j) PSI_LAMBDA {
      const int lanes = WHOLE ? 16 : m;
      u[j] = set1(d.write) * (load_n(d.v + column + 16 * j, lanes) - set1(d.predict) * p[j]);
      store_n(y + 16 * j, fma(set1(d.direct), u[j], set1(d.read) * o[j]), lanes);
    });
    const Piece from = i == 0 ? state : kept;
    if (i == run.count - 1) {
      walk<V, WHOLE, true, false>(from, state, a.key_dim, m, d, u, d, p, o);
      break;
    }
    const DeltaToken next = token_of(a, run.first + i + 1, h);
    walk<V, WHOLE, true, true>(from, kept, a.key_dim, m, d, u, next, p, o);
    d = next;
  }
}

void gated_delta_rule(const GatedDeltaRule& a) {
  const i64 pieces = (a.value_dim + 63) / 64;
  parallel(a.r.sequences * a.value_heads * pieces, [&](i64 task, int thread) {
    const i64 h = task / pieces % a.value_heads;
    const Run run = a.r.run(task / pieces / a.value_heads);
    if (run.count == 0) return;
    float* scratch = (float*)thread_scratch(thread);
    i64 c = task % pieces * 64;
    const i64 end = c + 64 < a.value_dim ? c + 64 : a.value_dim;
    if constexpr (ACCUMULATORS > 8)
      for (; c + 64 <= end; c += 64) columns<4, true>(a, run, h, c, 16, scratch);
    for (; c + 32 <= end; c += 32) columns<2, true>(a, run, h, c, 16, scratch);
    for (; c + 16 <= end; c += 16) columns<1, true>(a, run, h, c, 16, scratch);
    if (c < end) columns<1, false>(a, run, h, c, (int)(end - c), scratch);
  });
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
#include <stdlib.h>

#define PSI_DELTA_ARGUMENTS void *y, void *state, const void *qkv, const void *a, const void *b, const void *decay, const void *dt_bias, const void *token_sequence, const void *token_position, const void *sequence_slot, i32 tokens, i32 stride, i32 q_offset, i32 k_offset, i32 v_offset, i32 a_stride, i32 a_offset, i32 b_stride, i32 b_offset, i32 key_heads, i32 value_heads, i32 key_dim, i32 value_dim, i32 sequences, i32 slots, i32 tiled
#define PSI_DELTA_STRUCT                                                                                                     \
  {(float*)y, (float*)state, (const float*)qkv, (const float*)a, (const float*)b, (const float*)decay, (const float*)dt_bias, \
   {(const i32*)token_sequence, (const i32*)token_position, (const i32*)sequence_slot, tokens, sequences, slots},             \
   stride, q_offset, k_offset, v_offset, a_stride, a_offset, b_stride, b_offset, key_heads, value_heads, key_dim, value_dim, tiled != 0}

static bool inside(i64 offset, i64 width, i64 row) { return offset >= 0 && offset + width <= row; }

static i32 check_delta(const char* where, const psi::GatedDeltaRule& a, i32 tiled) {
  if (!a.y || !a.state || !a.qkv || !a.a || !a.b || !a.decay || !a.dt_bias) return psi::fail(PSI_INVALID, "[%s] expected non-null pointers.", where);
  if (a.key_heads < 1 || a.value_heads < 1 || a.value_heads % a.key_heads || a.key_dim < 1 || a.key_dim > psi::MAX_KEY_DIM || a.value_dim < 1)
    return psi::fail(PSI_INVALID, "[%s] expected value heads in multiples of the key heads, keys of 1 to %lld and values, got %lld heads of %lld and %lld of %lld.", where, (long long)psi::MAX_KEY_DIM, (long long)a.key_heads, (long long)a.key_dim, (long long)a.value_heads, (long long)a.value_dim);
  const i64 keys = a.key_heads * a.key_dim;
  if (!inside(a.q_offset, keys, a.stride) || !inside(a.k_offset, keys, a.stride) || !inside(a.v_offset, a.value_heads * a.value_dim, a.stride))
    return psi::fail(PSI_INVALID, "[%s] expected q, k and v inside rows of %lld, got them at %lld, %lld and %lld.", where, (long long)a.stride, (long long)a.q_offset, (long long)a.k_offset, (long long)a.v_offset);
  if (!inside(a.a_offset, a.value_heads, a.a_stride) || !inside(a.b_offset, a.value_heads, a.b_stride))
    return psi::fail(PSI_INVALID, "[%s] expected %lld gates inside rows of %lld and %lld, got them at %lld and %lld.", where, (long long)a.value_heads, (long long)a.a_stride, (long long)a.b_stride, (long long)a.a_offset, (long long)a.b_offset);
  if (tiled < 0 || tiled > 1) return psi::fail(PSI_INVALID, "[%s] expected tiled 0 or 1, got %d.", where, tiled);
  return psi::check_recurrent(where, a.r);
}

PSI_API i32 psi_gated_delta_rule(PSI_DELTA_ARGUMENTS) {
  PSI_OPENED("psi_gated_delta_rule");
  const psi::GatedDeltaRule args = PSI_DELTA_STRUCT;
  i32 status = check_delta("psi_gated_delta_rule", args, tiled);
  if (status != PSI_OK) return status;
  PSI_RUN(gated_delta_rule)(args);
  return PSI_OK;
}

/* One token of one head as the formulas stand, in f64 but for the state between tokens; k, q, u: room for its vectors. */
static void delta_reference(const psi::GatedDeltaRule& a, i64 t, i64 h, double* k, double* q, double* u) {
  const i64 dk = a.key_dim, dv = a.value_dim, key_head = a.tiled ? h % a.key_heads : h / (a.value_heads / a.key_heads);
  const float* row = a.qkv + t * a.stride;
  float* s = a.state + (a.r.slot_of(t) * a.value_heads + h) * dk * dv;
  if (a.r.position[t] == 0) memset(s, 0, (size_t)(dk * dv) * 4);
  double kk = 1e-6, qq = 1e-6;
  for (i64 i = 0; i < dk; i++) {
    k[i] = row[a.k_offset + key_head * dk + i], kk += k[i] * k[i];
    q[i] = row[a.q_offset + key_head * dk + i], qq += q[i] * q[i];
  }
  for (i64 i = 0; i < dk; i++) k[i] /= sqrt(kk), q[i] /= sqrt(qq) * sqrt((double)dk);
  const double raw = (double)a.a[t * a.a_stride + a.a_offset + h] + a.dt_bias[h];
  const double decay = exp(a.decay[h] * (raw > 30 ? raw : log1p(exp(raw))));
  const double beta = 1 / (1 + exp(-(double)a.b[t * a.b_stride + a.b_offset + h]));
  for (i64 j = 0; j < dv; j++) {
    double predicted = 0;
    for (i64 i = 0; i < dk; i++) predicted += decay * s[i * dv + j] * k[i];
    u[j] = beta * (row[a.v_offset + h * dv + j] - predicted);
  }
  for (i64 j = 0; j < dv; j++) {
    double sum = 0;
    for (i64 i = 0; i < dk; i++) {
      const double now = decay * s[i * dv + j] + k[i] * u[j];
      sum += now * q[i];
      s[i * dv + j] = (float)now;
    }
    a.y[(t * a.value_heads + h) * dv + j] = (float)sum;
  }
}

PSI_API i32 psi_gated_delta_rule_ref(PSI_DELTA_ARGUMENTS) {
  const psi::GatedDeltaRule args = PSI_DELTA_STRUCT;
  i32 status = check_delta("psi_gated_delta_rule_ref", args, tiled);
  if (status != PSI_OK) return status;
  double* room = (double*)malloc((size_t)(2 * args.key_dim + args.value_dim) * 8);
  if (!room) return psi::fail(PSI_NO_MEMORY, "[psi_gated_delta_rule_ref] expected memory for a token, got none.");
  for (i64 t = 0; t < tokens; t++)
    for (i64 h = 0; h < value_heads; h++) delta_reference(args, t, h, room, room + key_dim, room + 2 * (i64)key_dim);
  free(room);
  return PSI_OK;
}
#endif
