/* psi_causal_attention, psi_causal_attention_grad: see causal_attention.metal. */
#include "causal_attention.h"

#include "train.h"

typedef struct {
  CausalParams p;
  f64 rows, wide, narrow; /* elements of [rows,heads*head_dim] and [rows,kv_heads*head_dim] */
  bool rest, sinks, first;
} Causal;

static i32 check(const char* where, i32 sequences, i32 length, i32 heads, i32 kv_heads, i32 head_dim, i32 window, i32 dtype, u32 halves, f64 softcap) {
  PSI_TRY(PSI_CHECK_ROWS(where, sequences, length, heads, kv_heads, head_dim));
  PSI_TRY(psi_check_numbers(where, dtype, halves));
  if (heads % kv_heads || head_dim > CAUSAL_WIDEST || window < 0 || !(softcap >= 0))
    return psi_fail(PSI_INVALID, "[%s] expected heads in multiples of the key heads, a head width of 1..%d and a window and soft-cap of at least 0, got heads %d, kv_heads %d, head_dim %d, window %d.", where, CAUSAL_WIDEST, heads, kv_heads, head_dim, window);
  return psi_check_count(where, (f64)sequences * length);
}

static PsiLaunch causal(const char* kernel, const Causal* c) {
  PsiLaunch l = psi_number_kernel("causal_attention", kernel);
  psi_constant_bool(&l, 0, c->sinks);
  psi_constant_bool(&l, 1, c->first);
  psi_constant_bool(&l, 2, c->p.softcap > 0);
  psi_constant_bool(&l, 3, c->rest);
  return l;
}

/* Own rows of one or two tensors in threadgroup memory. */
static i64 own_bytes(const CausalParams* p, i32 tensors) {
  return 4 * (i64)tensors * CAUSAL_OWN * (PSI_DIVIDE_UP(p->head_dim, CAUSAL_BLOCK) * CAUSAL_BLOCK + 4);
}

static Causal sizes_of(const void* rest, const void* sinks, const void* first, i32 sequences, i32 length, i32 heads, i32 kv_heads, i32 head_dim, i32 window, f64 scale, f64 softcap) {
  f64 rows = (f64)sequences * length;
  CausalParams p = {(u32)sequences, (u32)length, (u32)heads, (u32)kv_heads, (u32)head_dim, (u32)window, (f32)scale, (f32)softcap};
  return (Causal){p, rows, rows * heads * head_dim, rows * kv_heads * head_dim, rest != NULL, sinks != NULL, first != NULL};
}

/* Multiply-adds of a thread: its rows' products with half the keys, and so many times more. */
static f64 work_of(const Causal* c, f64 times) { return times * CAUSAL_OWN / (f64)CAUSAL_THREADS * c->p.length * c->p.head_dim; }

PSI_API i32 psi_causal_attention(void* y, void* lse, void* rest, const void* q, const void* k, const void* v, const void* sinks, const void* first, i32 sequences, i32 length,
                                 i32 heads, i32 kv_heads, i32 head_dim, i32 window, i32 dtype, f64 scale, f64 softcap) {
  PSI_TRY(check("psi_causal_attention", sequences, length, heads, kv_heads, head_dim, window, dtype, 0x3d, softcap));
  PSI_TRY(PSI_CHECK_POINTERS("psi_causal_attention", y, lse, q, k, v));
  if (sequences == 0) return PSI_OK;
  Causal c = sizes_of(rest, sinks, first, sequences, length, heads, kv_heads, head_dim, window, scale, softcap);
  PsiLaunch l = causal("causal_forward", &c);
  psi_write_numbers(&l, 0, psi_numbers(y, dtype, 0), c.wide);
  psi_write(&l, 1, lse, 4 * c.rows * heads);
  psi_read_numbers(&l, 2, psi_numbers(q, dtype, 3), c.wide);
  psi_read_numbers(&l, 3, psi_numbers(k, dtype, 4), c.narrow);
  psi_read_numbers(&l, 4, psi_numbers(v, dtype, 5), c.narrow);
  psi_read(&l, 5, sinks, sinks ? 4.0 * heads : 0);
  psi_read(&l, 6, first, first ? 4 * c.rows : 0);
  psi_params(&l, 7, &c.p, sizeof c.p);
  psi_write_numbers(&l, 8, psi_numbers(rest, dtype, 2), c.wide);
  psi_threadgroup(&l, 0, own_bytes(&c.p, 1));
  l.work = work_of(&c, 1);
  return psi_launch(&l, PSI_DIVIDE_UP(length, CAUSAL_OWN), heads, sequences, CAUSAL_THREADS, 1, 1);
}

typedef struct {
  PsiNumbers dy, q, k, v;
  const void *lse, *deltas, *first;
} Given;

static void bind_given(PsiLaunch* l, i32 at, const Causal* c, const Given* g) {
  psi_read_numbers(l, at, g->dy, c->wide);
  psi_read_numbers(l, at + 1, g->q, c->wide);
  psi_read_numbers(l, at + 2, g->k, c->narrow);
  psi_read_numbers(l, at + 3, g->v, c->narrow);
  psi_read(l, at + 4, g->lse, 4 * c->rows * c->p.heads);
  psi_read(l, at + 5, g->deltas, 4 * c->rows * c->p.heads);
  psi_read(l, at + 6, g->first, g->first ? 4 * c->rows : 0);
  psi_params(l, at + 7, &c->p, sizeof c->p);
  psi_threadgroup(l, 0, own_bytes(&c->p, 2));
}

static i32 launch_deltas(void* deltas, void* dsinks, PsiNumbers dy, PsiNumbers y, PsiNumbers rest, const void* lse, const void* sinks, const Causal* c) {
  PsiLaunch l = causal("causal_deltas", c);
  psi_write(&l, 0, deltas, 4 * c->rows * c->p.heads);
  psi_read_numbers(&l, 1, dy, c->wide);
  psi_read_numbers(&l, 2, y, c->wide);
  psi_params(&l, 3, &c->p, sizeof c->p);
  psi_read_numbers(&l, 4, rest, c->wide);
  PSI_TRY(psi_launch(&l, c->p.heads, (i64)c->rows, 1, 32, 1, 1));
  if (!dsinks) return PSI_OK;
  PsiLaunch s = causal("causal_dsinks", c);
  psi_write(&s, 0, dsinks, 4.0 * c->p.heads);
  psi_read(&s, 1, deltas, 4 * c->rows * c->p.heads);
  psi_read(&s, 2, lse, 4 * c->rows * c->p.heads);
  psi_read(&s, 3, sinks, 4.0 * c->p.heads);
  psi_params(&s, 4, &c->p, sizeof c->p);
  return psi_launch(&s, c->p.heads, 1, 1, 32, 1, 1);
}

PSI_API i32 psi_causal_attention_grad(void* dq, void* dk, void* dv, void* dsinks, const void* dy, const void* q, const void* k, const void* v, const void* y,
                                      const void* lse, const void* rest, const void* sinks, const void* first, void* scratch, i32 sequences, i32 length, i32 heads, i32 kv_heads,
                                      i32 head_dim, i32 window, i32 dtype, f64 scale, f64 softcap, f64 scratch_bytes) {
  PSI_TRY(check("psi_causal_attention_grad", sequences, length, heads, kv_heads, head_dim, window, dtype, 0x5f7, softcap));
  PSI_TRY(PSI_CHECK_POINTERS("psi_causal_attention_grad", dq, dk, dv, dy, q, k, v, y, lse));
  if (dsinks && !sinks) return psi_fail(PSI_INVALID, "[psi_causal_attention_grad] expected sinks where their gradient is wanted, got null.");
  if (sequences == 0) return PSI_OK;
  Causal c = sizes_of(rest, sinks, first, sequences, length, heads, kv_heads, head_dim, window, scale, softcap);
  PSI_TRY(psi_check_scratch("psi_causal_attention_grad", scratch, scratch_bytes, 4 * c.rows * heads));
  Given g = {psi_numbers(dy, dtype, 4), psi_numbers(q, dtype, 5), psi_numbers(k, dtype, 6), psi_numbers(v, dtype, 7), lse, scratch, first};
  PSI_TRY(launch_deltas(scratch, dsinks, g.dy, psi_numbers(y, dtype, 8), psi_numbers(rest, dtype, 10), lse, sinks, &c));
  PsiLaunch keys = causal("causal_dkv", &c);
  psi_write_numbers(&keys, 0, psi_numbers(dk, dtype, 1), c.narrow);
  psi_write_numbers(&keys, 1, psi_numbers(dv, dtype, 2), c.narrow);
  bind_given(&keys, 2, &c, &g);
  keys.work = work_of(&c, 2.0 * heads / kv_heads);
  PSI_TRY(psi_launch(&keys, PSI_DIVIDE_UP(length, CAUSAL_OWN), kv_heads, sequences, CAUSAL_THREADS, 1, 1));
  PsiLaunch rows = causal("causal_dq", &c);
  psi_write_numbers(&rows, 0, psi_numbers(dq, dtype, 0), c.wide);
  bind_given(&rows, 1, &c, &g);
  rows.work = work_of(&c, 1.5);
  return psi_launch(&rows, PSI_DIVIDE_UP(length, CAUSAL_OWN), heads, sequences, CAUSAL_THREADS, 1, 1);
}
