/*
 * Causal attention over the paged cache: q f32, token t's head h at q + t*q_stride + q_offset + h*head_dim; y f32
 * [tokens, heads*head_dim]; score = scale * <q, k> (soft-capped), over positions p with 0 <= position - p < window.
 *
 * Keys are cut into chunks of 128 absolute positions. A chunk gives max, sum and accumulator of its own (f32; positions
 * ascending, head elements ascending); chunks are merged in ascending order:
 *   m' = max(M, m); L' = L e^(M-m') + l e^(m-m'); O' = O e^(M-m') + o e^(m-m')
 * That is the flash-attention recurrence (arXiv:2205.14135) with cuts that depend on nothing but positions, so a
 * token's bits are the same alone, in a batch, in a prompt or one by one, and for any number of threads. A sink adds to
 * the denominator at the end.
 *
 * A task is a run of tokens of one sequence with one kv head: up to 32 rows (token, head of the group) share every
 * key and value that is loaded. With few tasks, chunks are spread over the threads and merged afterwards.
 * Scratch: min(tokens, 4) * heads * ceil(max_pages*page_size/128) * (head_dim + 2) * 4 bytes.
 */
#include <math.h>

#include "../common/cache.h"
#include "../common/pool.h"

namespace psi {
struct Attention {
  float* y;
  const float* q;
  const u8 *k_cache, *v_cache;
  const i32 *page_table, *token_sequence, *token_position;
  const float* sinks;
  float* scratch;
  i64 tokens, q_stride, q_offset, heads;
  CacheShape shape;
  i64 window;
  i32 cache_type;
  float scale, softcap;
};
constexpr i64 CHUNK = 128, MAX_ROWS = 32, SPLIT_TOKENS = 4;
}  // namespace psi

PSI_KERNEL(attention, const Attention& a)

namespace psi::PSI_ISA {

/* Rows that are computed together, and a thread's memory for them. */
struct Block {
  i64 first_token, token_count, kv_head, first_head, head_count, rows;  // row = token * head_count + head
  float* q;         // [head_dim][MAX_ROWS]
  float* scores;    // [MAX_ROWS][CHUNK]
  float* partial;   // [MAX_ROWS][head_dim]
  float* total;     // [MAX_ROWS][head_dim]
  float m[MAX_ROWS], l[MAX_ROWS];    // of the chunk; m = -inf: nothing visible
  float M[MAX_ROWS], L[MAX_ROWS];    // of the chunks merged so far
};

PSI_INLINE i64 lowest(const Attention& a, i64 position) {
  return a.window > 0 && position - a.window + 1 > 0 ? position - a.window + 1 : 0;
}
PSI_INLINE i64 row_position(const Attention& a, const Block& b, i64 row) {
  return a.token_position[b.first_token + row / b.head_count];
}

static void place_block(const Attention& a, Block& b, u8* memory) {
  const i64 e = a.shape.head_dim;
  b.rows = b.token_count * b.head_count;
  b.q = (float*)memory;
  b.scores = b.q + e * MAX_ROWS;
  b.partial = b.scores + MAX_ROWS * CHUNK;
  b.total = b.partial + MAX_ROWS * e;
  for (i64 r = 0; r < b.rows; r++) {
    const float* q = a.q + (b.first_token + r / b.head_count) * a.q_stride + a.q_offset + (b.first_head + r % b.head_count) * e;
    for (i64 d = 0; d < e; d++) b.q[d * MAX_ROWS + r] = q[d];
    b.M[r] = -INFINITY;
    b.L[r] = 0;
  }
  memset(b.total, 0, (size_t)(b.rows * e) * 4);
}

/* Raw products of R rows with TILES adjacent tiles of keys of one page. */
template <class C, int R, int TILES>
static void products(const Attention& a, const Block& b, i64 row, const u8* keys, const u8* scales, float* out) {
  const i64 e = a.shape.head_dim;
  vf acc[R * TILES];
  unroll<R * TILES>([&](auto i) PSI_LAMBDA { acc[i] = zero(); });
  const float* q = b.q + row;
  for (i64 d = 0; d < e; d++) {
    vf k[TILES];
    unroll<TILES>([&](auto t) PSI_LAMBDA {
      k[t] = C::elements(keys + (t * e + d) * 16 * C::BYTES);
      if (C::SCALED) k[t] = k[t] * load_f16(scales + (t * (e / 32) + d / 32) * 32);
    });
    unroll<R>([&](auto r) PSI_LAMBDA {
      vf x = set1(q[d * MAX_ROWS + r]);
      unroll<TILES>([&](auto t) PSI_LAMBDA { acc[r * TILES + t] = fma(x, k[t], acc[r * TILES + t]); });
    });
  }
  unroll<R>([&](auto r) PSI_LAMBDA {
    unroll<TILES>([&](auto t) PSI_LAMBDA { store(out + (row + r) * CHUNK + t * 16, acc[r * TILES + t]); });
  });
}

template <class C, int TILES>
static void all_products(const Attention& a, const Block& b, const u8* keys, const u8* scales, float* out) {
  i64 row = 0;
  for (; row + 8 <= b.rows; row += 8) products<C, 8, TILES>(a, b, row, keys, scales, out);
  if (row + 4 <= b.rows) products<C, 4, TILES>(a, b, row, keys, scales, out), row += 4;
  if (row + 2 <= b.rows) products<C, 2, TILES>(a, b, row, keys, scales, out), row += 2;
  if (row < b.rows) products<C, 1, TILES>(a, b, row, keys, scales, out);
}

/* Scores of a chunk to weights: masked, exponentials of the distance to the chunk's maximum; sets m and l. */
static void soften(const Attention& a, Block& b, i64 chunk, i64 tile_begin, i64 tile_end) {
  const vf cap = set1(a.softcap), scale = set1(a.scale);
  alignas(64) static const float lanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  for (i64 r = 0; r < b.rows; r++) {
    float* s = b.scores + r * CHUNK;
    const i64 position = row_position(a, b, r), base = chunk * CHUNK;
    const vf last = set1((float)(position - base)), first = set1((float)(lowest(a, position) - base));
    vf best = set1(-INFINITY);
    for (i64 t = tile_begin; t < tile_end; t++) {
      vf x = load(s + t * 16) * scale;
      if (a.softcap > 0) {
        x = x / cap;
        x = set1(1.0f) - set1(2.0f) / (exp(x + x) + set1(1.0f));
        x = x * cap;
      }
      vf lane = load(lanes) + set1((float)(t * 16));
      x = select(gt(lane, last), set1(-INFINITY), select(lt(lane, first), set1(-INFINITY), x));
      store(s + t * 16, x);
      best = max(x, best);
    }
    b.m[r] = hmax(best);
    if (b.m[r] == -INFINITY) {
      for (i64 t = tile_begin; t < tile_end; t++) store(s + t * 16, zero());
      continue;
    }
    vf sum = zero();
    for (i64 t = tile_begin; t < tile_end; t++) {
      vf x = load(s + t * 16);
      vf p = select(eq(x, set1(-INFINITY)), zero(), exp(x - set1(b.m[r])));
      store(s + t * 16, p);
      sum = sum + p;
    }
    b.l[r] = hsum(sum);
  }
}

/* partial[row .. row+R][16*VECTORS columns from d] += weights * values, positions begin..end of the chunk ascending. */
template <class C, int R, int VECTORS>
static void accumulate(const Attention& a, const Block& b, i64 row, i64 d, i64 chunk, i64 begin, i64 end, const i32* pages) {
  const CacheShape& s = a.shape;
  const i64 e = s.head_dim;
  vf acc[R * VECTORS];
  unroll<R * VECTORS>([&](auto i) PSI_LAMBDA { acc[i] = zero(); });
  for (i64 j = begin; j < end;) {
    const i64 position = chunk * CHUNK + j, slot = position % s.page_size;
    const i64 stop = j + s.page_size - slot < end ? j + s.page_size - slot : end;
    const u8* page = a.v_cache + pages[position / s.page_size] * s.page_bytes;
    i64 at = b.kv_head * s.page_size + slot;
    for (; j < stop; j++, at++) {
      vf v[VECTORS];
      unroll<VECTORS>([&](auto i) PSI_LAMBDA {
        v[i] = C::elements(page + (at * e + d + i * 16) * C::BYTES);
        if (C::SCALED) {
          u16 half;
          memcpy(&half, page + s.scales_at + (at * (e / 32) + (d + i * 16) / 32) * 2, 2);
          v[i] = v[i] * set1(f16_to_f32(half));
        }
      });
      unroll<R>([&](auto r) PSI_LAMBDA {
        vf p = set1(b.scores[(row + r) * CHUNK + j]);
        unroll<VECTORS>([&](auto i) PSI_LAMBDA { acc[r * VECTORS + i] = fma(p, v[i], acc[r * VECTORS + i]); });
      });
    }
  }
  unroll<R>([&](auto r) PSI_LAMBDA {
    unroll<VECTORS>([&](auto i) PSI_LAMBDA { store(b.partial + (row + r) * e + d + i * 16, acc[r * VECTORS + i]); });
  });
}

template <class C, int VECTORS>
static void accumulate_rows(const Attention& a, const Block& b, i64 d, i64 chunk, i64 begin, i64 end, const i32* pages) {
  i64 row = 0;
  for (; row + 4 <= b.rows; row += 4) accumulate<C, 4, VECTORS>(a, b, row, d, chunk, begin, end, pages);
  if (row + 2 <= b.rows) accumulate<C, 2, VECTORS>(a, b, row, d, chunk, begin, end, pages), row += 2;
  if (row < b.rows) accumulate<C, 1, VECTORS>(a, b, row, d, chunk, begin, end, pages);
}

/* One chunk of all rows: m, l and partial. */
template <class C>
static void attend_chunk(const Attention& a, Block& b, i64 chunk) {
  const CacheShape& s = a.shape;
  const i32* pages = a.page_table + a.token_sequence[b.first_token] * s.max_pages;
  const i64 from = lowest(a, row_position(a, b, 0)), to = row_position(a, b, b.rows - 1) + 1;
  const i64 begin = from > chunk * CHUNK ? from - chunk * CHUNK : 0;
  const i64 end = to < (chunk + 1) * CHUNK ? to - chunk * CHUNK : CHUNK;
  const i64 tile_end = (end + 15) / 16;
  for (i64 t = begin / 16; t < tile_end;) {
    const i64 position = chunk * CHUNK + t * 16, tile = position % s.page_size / 16;
    const u8* page = a.k_cache + pages[position / s.page_size] * s.page_bytes;
    const i64 index = b.kv_head * (s.page_size / 16) + tile;
    const u8* keys = page + index * s.head_dim * 16 * C::BYTES;
    const u8* scales = page + s.scales_at + index * (s.head_dim / 32) * 32;
    float* out = b.scores + t * 16;
    const bool pair = t + 1 < tile_end && tile + 1 < s.page_size / 16;
    if (pair) all_products<C, 2>(a, b, keys, scales, out);
    else all_products<C, 1>(a, b, keys, scales, out);
    t += pair ? 2 : 1;
  }
  soften(a, b, chunk, begin / 16, tile_end);
  i64 d = 0;
  for (; d + 64 <= s.head_dim; d += 64) accumulate_rows<C, 4>(a, b, d, chunk, begin, end, pages);
  for (; d + 32 <= s.head_dim; d += 32) accumulate_rows<C, 2>(a, b, d, chunk, begin, end, pages);
  for (; d < s.head_dim; d += 16) accumulate_rows<C, 1>(a, b, d, chunk, begin, end, pages);
}

PSI_INLINE float exp1(float x) {
  float lanes[16];
  store(lanes, exp(set1(x)));
  return lanes[0];
}

/* Takes a chunk's (m, l, o) of one row into (M, L, O). */
static void merge(float& M, float& L, float* O, float m, float l, const float* o, i64 e) {
  if (m == -INFINITY) return;
  const float top = m > M ? m : M;
  const float old = M == -INFINITY ? 0.0f : exp1(M - top), now = exp1(m - top);
  L = L * old + l * now;
  for (i64 d = 0; d < e; d += 16) store(O + d, fma(load(o + d), set1(now), load(O + d) * set1(old)));
  M = top;
}

static void finish(const Attention& a, i64 token, i64 head, float M, float L, const float* O) {
  const i64 e = a.shape.head_dim;
  float* y = a.y + (token * a.heads + head) * e;
  float factor = 1;
  if (a.sinks) {
    const float sink = a.sinks[head], top = sink > M ? sink : M;
    factor = M == -INFINITY ? 0.0f : exp1(M - top);
    L = L * factor + (sink == -INFINITY ? 0.0f : exp1(sink - top));
  }
  const vf scale = set1(L > 0 ? factor / L : 0.0f);
  for (i64 d = 0; d < e; d += 16) store(y + d, load(O + d) * scale);
}

/* A run of tokens in ascending chunks. */
template <class C>
static void attend_block(const Attention& a, Block& b) {
  const i64 e = a.shape.head_dim;
  const i64 first = lowest(a, row_position(a, b, 0)) / CHUNK, last = row_position(a, b, b.rows - 1) / CHUNK;
  for (i64 chunk = first; chunk <= last; chunk++) {
    attend_chunk<C>(a, b, chunk);
    for (i64 r = 0; r < b.rows; r++) merge(b.M[r], b.L[r], b.total + r * e, b.m[r], b.l[r], b.partial + r * e, e);
  }
  for (i64 r = 0; r < b.rows; r++)
    finish(a, b.first_token + r / b.head_count, b.first_head + r % b.head_count, b.M[r], b.L[r], b.total + r * e);
}

/* Few tokens: every (token, kv head, piece of heads, chunk) is a task of its own; then the merges. */
template <class C>
static void attend_split(const Attention& a, i64 pieces, i64 group) {
  const i64 e = a.shape.head_dim, chunks = (a.shape.max_pages * a.shape.page_size + CHUNK - 1) / CHUNK, record = e + 2;
  parallel(a.tokens * a.shape.kv_heads * pieces * chunks, [&](i64 task, int thread) {
    const i64 chunk = task % chunks, piece = task / chunks % pieces, kv = task / chunks / pieces % a.shape.kv_heads;
    const i64 token = task / chunks / pieces / a.shape.kv_heads, position = a.token_position[token];
    if (chunk < lowest(a, position) / CHUNK || chunk > position / CHUNK) return;
    const i64 head = piece * MAX_ROWS;
    Block b = {};
    b.first_token = token, b.token_count = 1, b.kv_head = kv, b.first_head = kv * group + head;
    b.head_count = group - head < MAX_ROWS ? group - head : MAX_ROWS;
    place_block(a, b, thread_scratch(thread));
    attend_chunk<C>(a, b, chunk);
    for (i64 r = 0; r < b.rows; r++) {
      float* out = a.scratch + ((token * a.heads + b.first_head + r) * chunks + chunk) * record;
      out[0] = b.m[r];
      out[1] = b.l[r];
      memcpy(out + 2, b.partial + r * e, (size_t)e * 4);
    }
  });
  parallel(a.tokens * a.heads, [&](i64 task, int thread) {
    const i64 position = a.token_position[task / a.heads];
    float M = -INFINITY, L = 0;
    float* O = (float*)thread_scratch(thread);
    memset(O, 0, (size_t)e * 4);
    for (i64 chunk = lowest(a, position) / CHUNK; chunk <= position / CHUNK; chunk++) {
      const float* in = a.scratch + (task * chunks + chunk) * record;
      merge(M, L, O, in[0], in[1], in + 2, e);
    }
    finish(a, task / a.heads, task % a.heads, M, L, O);
  });
}

/* End of the run of consecutive positions of one sequence that begins at token t, at most `most` tokens long. */
static i64 run_end(const Attention& a, i64 t, i64 most) {
  i64 end = t + 1;
  while (end < a.tokens && end - t < most && a.token_sequence[end] == a.token_sequence[t] && a.token_position[end] == a.token_position[end - 1] + 1) end++;
  return end;
}

template <class C>
static void attend_all(const Attention& a) {
  const i64 group = a.heads / a.shape.kv_heads, pieces = (group + MAX_ROWS - 1) / MAX_ROWS;
  const i64 most = group >= MAX_ROWS ? 1 : MAX_ROWS / group;
  i64 runs = 0;
  for (i64 t = 0; t < a.tokens; t = run_end(a, t, most)) runs++;
  const i64 tasks = runs * a.shape.kv_heads * pieces;
  if (a.tokens <= SPLIT_TOKENS && pool_threads() > 1 && tasks < 4 * pool_threads()) return attend_split<C>(a, pieces, group);
  parallel(tasks, [&](i64 task, int thread) {
    const i64 piece = task % pieces, kv = task / pieces % a.shape.kv_heads;
    i64 token = 0;
    for (i64 run = task / pieces / a.shape.kv_heads; run > 0; run--) token = run_end(a, token, most);
    const i64 head = piece * MAX_ROWS;
    Block b = {};
    b.first_token = token, b.token_count = run_end(a, token, most) - token, b.kv_head = kv, b.first_head = kv * group + head;
    b.head_count = group - head < MAX_ROWS ? group - head : MAX_ROWS;
    place_block(a, b, thread_scratch(thread));
    attend_block<C>(a, b);
  });
}

void attention(const Attention& a) {
  with_cache_type(a.cache_type, [&](auto type) { attend_all<decltype(type)>(a); });
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
static i32 check_attention(const char* where, const psi::Attention& a) {
  if (!a.y || !a.q || !a.k_cache || !a.v_cache || !a.page_table || !a.token_sequence || !a.token_position)
    return psi::fail(PSI_INVALID, "[%s] expected non-null pointers.", where);
  const psi::CacheShape& s = a.shape;
  i32 status = psi::check_cache(where, (i32)a.tokens, (i32)s.kv_heads, (i32)s.head_dim, (i32)s.page_size, (i32)s.max_pages, a.cache_type);
  if (status != PSI_OK) return status;
  if (psi::CHUNK % s.page_size && s.page_size % psi::CHUNK)
    return psi::fail(PSI_INVALID, "[%s] expected a page size that divides %lld or is a multiple of it, got %lld.", where, (long long)psi::CHUNK, (long long)s.page_size);
  if (a.heads < 1 || a.heads % s.kv_heads || a.q_offset < 0 || a.q_offset + a.heads * s.head_dim > a.q_stride || a.window < 0)
    return psi::fail(PSI_INVALID, "[%s] expected heads inside the rows and a multiple of kv_heads %lld, got heads %lld, stride %lld, window %lld.", where, (long long)s.kv_heads, (long long)a.heads, (long long)a.q_stride, (long long)a.window);
  for (i64 t = 0; t < a.tokens; t++) {
    const i64 position = a.token_position[t];
    if (a.token_sequence[t] < 0 || position < 0 || position >= s.max_pages * s.page_size)
      return psi::fail(PSI_INVALID, "[%s] expected a position below %lld, got %lld of token %lld.", where, (long long)(s.max_pages * s.page_size), (long long)position, (long long)t);
    const i64 lowest = a.window > 0 && position - a.window + 1 > 0 ? position - a.window + 1 : 0;
    // A run of tokens shares its pages: only what its first token does not cover has to be looked at again.
    const bool follows = t > 0 && a.token_sequence[t] == a.token_sequence[t - 1] && position == a.token_position[t - 1] + 1;
    const i64 from = (follows ? position : lowest) / s.page_size;
    for (i64 page = from; page <= position / s.page_size; page++)
      if (a.page_table[a.token_sequence[t] * s.max_pages + page] < 0)
        return psi::fail(PSI_INVALID, "[%s] expected page %lld of token %lld, got none.", where, (long long)page, (long long)t);
  }
  return PSI_OK;
}

#define PSI_ATTENTION_ARGUMENTS void *y, const void *q, const void *k_cache, const void *v_cache, const void *page_table, const void *token_sequence, const void *token_position, const void *sinks, void *scratch, i32 tokens, i32 q_stride, i32 q_offset, i32 heads, i32 kv_heads, i32 head_dim, i32 page_size, i32 max_pages, i32 window, i32 cache_type, f32 scale, f32 softcap, f64 scratch_bytes
#define PSI_ATTENTION_STRUCT                                                                                                   \
  {(float*)y, (const float*)q, (const u8*)k_cache, (const u8*)v_cache, (const i32*)page_table, (const i32*)token_sequence,     \
   (const i32*)token_position, (const float*)sinks, (float*)scratch, tokens, q_stride, q_offset, heads,                        \
   psi::cache_shape(kv_heads, head_dim, page_size, max_pages, cache_type), window, cache_type, scale, softcap}

PSI_API i32 psi_attention(PSI_ATTENTION_ARGUMENTS) {
  PSI_OPENED("psi_attention");
  const psi::Attention a = PSI_ATTENTION_STRUCT;
  i32 status = check_attention("psi_attention", a);
  if (status != PSI_OK) return status;
  const i64 chunks = ((i64)max_pages * page_size + psi::CHUNK - 1) / psi::CHUNK;
  const f64 needed = (f64)(tokens < psi::SPLIT_TOKENS ? tokens : psi::SPLIT_TOKENS) * heads * (f64)chunks * (head_dim + 2) * 4;
  if (tokens > 0 && (!scratch || !(scratch_bytes >= needed)))
    return psi::fail(PSI_INVALID, "[psi_attention] expected %.0f bytes of scratch, got %.0f.", needed, scratch ? scratch_bytes : 0);
  PSI_RUN(attention)(a);
  return PSI_OK;
}

/* Element of a page as f64, whatever its type. */
static double key_at(const psi::Attention& a, i64 page, i64 kv, i64 slot, i64 d) {
  const psi::CacheShape& s = a.shape;
  const u8* p = a.k_cache + page * s.page_bytes;
  const i64 tile = kv * (s.page_size / 16) + slot / 16, i = (tile * s.head_dim + d) * 16 + slot % 16;
  u16 half;
  if (a.cache_type == psi::F32) return ((const float*)p)[i];
  if (a.cache_type == psi::Q8_0) {
    memcpy(&half, p + s.scales_at + ((tile * (s.head_dim / 32) + d / 32) * 16 + slot % 16) * 2, 2);
    return (double)(i8)p[i] * psi::f16_to_f32(half);
  }
  memcpy(&half, p + i * 2, 2);
  return a.cache_type == psi::F16 ? psi::f16_to_f32(half) : psi::bf16_to_f32(half);
}
static double value_at(const psi::Attention& a, i64 page, i64 kv, i64 slot, i64 d) {
  const psi::CacheShape& s = a.shape;
  const u8* p = a.v_cache + page * s.page_bytes;
  const i64 row = kv * s.page_size + slot, i = row * s.head_dim + d;
  u16 half;
  if (a.cache_type == psi::F32) return ((const float*)p)[i];
  if (a.cache_type == psi::Q8_0) {
    memcpy(&half, p + s.scales_at + (row * (s.head_dim / 32) + d / 32) * 2, 2);
    return (double)(i8)p[i] * psi::f16_to_f32(half);
  }
  memcpy(&half, p + i * 2, 2);
  return a.cache_type == psi::F16 ? psi::f16_to_f32(half) : psi::bf16_to_f32(half);
}

/* Two passes over the positions in f64: the maximum, then the sums. */
PSI_API i32 psi_attention_ref(PSI_ATTENTION_ARGUMENTS) {
  (void)scratch_bytes;
  const psi::Attention a = PSI_ATTENTION_STRUCT;
  i32 status = check_attention("psi_attention_ref", a);
  if (status != PSI_OK) return status;
  for (i64 t = 0; t < tokens; t++)
    for (i64 h = 0; h < heads; h++) {
      const i64 kv = h / (heads / kv_heads), position = a.token_position[t];
      const i64 from = window > 0 && position - window + 1 > 0 ? position - window + 1 : 0;
      const i32* pages = a.page_table + a.token_sequence[t] * (i64)max_pages;
      const float* row = a.q + t * q_stride + q_offset + h * head_dim;
      auto score = [&](i64 p) {
        double z = 0;
        for (i64 d = 0; d < head_dim; d++) z += row[d] * key_at(a, pages[p / page_size], kv, p % page_size, d);
        z *= scale;
        return softcap > 0 ? softcap * tanh(z / softcap) : z;
      };
      double top = sinks ? a.sinks[h] : -INFINITY;
      for (i64 p = from; p <= position; p++) top = fmax(top, score(p));
      double sum = sinks ? exp(a.sinks[h] - top) : 0;
      double out[512] = {0};
      for (i64 p = from; p <= position; p++) {
        const double w = exp(score(p) - top);
        sum += w;
        for (i64 d = 0; d < head_dim; d++) out[d] += w * value_at(a, pages[p / page_size], kv, p % page_size, d);
      }
      for (i64 d = 0; d < head_dim; d++) a.y[(t * heads + h) * head_dim + d] = (float)(out[d] / sum);
    }
  return PSI_OK;
}
#endif
