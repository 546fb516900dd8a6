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
 * A task is a run of tokens of one sequence with one kv head: up to 32 rows (token, head of the group), 8 or 4 of which
 * share every key and value that is loaded. With few tasks, spans of chunks are spread over the threads and merged
 * afterwards. Keys are read while the chunk's values are fetched, values while the next chunk's keys are.
 * Scratch: min(tokens, 4) * heads * ceil(max_pages*page_size/128) * (head_dim + 2) * 4 bytes.
 */
#include <math.h>

#include "../common/cache.h"
#include "../common/pool.h"
#include "../common/tanh.h"

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

/*
 * Register tiles: sums held at once, and rows that share a loaded key or value. Every sum runs over its head elements or
 * positions in ascending order, so neither number changes a bit.
 */
constexpr int SUMS = ACCUMULATORS >= 12 ? 16 : 4, MOST = SUMS == 16 ? 8 : 4, TILES = CHUNK / 16;
constexpr int side_by_side(int rows) { return SUMS / rows < 4 ? SUMS / rows : 4; }

/* Where the tiles of 16 positions of a chunk lie, for one kv head. */
struct Tiles {
  const u8 *keys[TILES], *key_scales[TILES], *values[TILES], *value_scales[TILES];
};

/* Rows that are computed together, and a thread's memory for them. */
struct Block {
  i64 first_token, token_count, kv_head, first_head, head_count, rows;  // row = token * head_count + head
  const i32* pages;
  float* q;        // [head_dim][MAX_ROWS]
  float* scores;   // [MAX_ROWS][CHUNK]
  float* scales;   // [CHUNK][head_dim/32] of values, q8_0 only
  float* partial;  // accumulators of the chunk, row r at partial + r * partial_stride
  i64 partial_stride;
  float* total;                    // [MAX_ROWS][head_dim]
  float m[MAX_ROWS], l[MAX_ROWS];  // of the chunk; m = -inf: nothing visible
  float M[MAX_ROWS], L[MAX_ROWS];  // of the chunks merged so far
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
  b.pages = a.page_table + a.token_sequence[b.first_token] * a.shape.max_pages;
  b.q = (float*)memory;
  b.scores = b.q + e * MAX_ROWS;
  b.scales = b.scores + MAX_ROWS * CHUNK;
  b.partial = b.scales + CHUNK * (e / 32 + 1);
  b.partial_stride = e;
  b.total = b.partial + MAX_ROWS * e;
  for (i64 r = 0; r < b.rows; r++) {
    const float* q = a.q + (b.first_token + r / b.head_count) * a.q_stride + a.q_offset + (b.first_head + r % b.head_count) * e;
    for (i64 d = 0; d < e; d++) b.q[d * MAX_ROWS + r] = q[d];
  }
  for (i64 r = 0; r < MAX_ROWS; r++) b.M[r] = -INFINITY;
  memset(b.total, 0, (size_t)(b.rows * e) * 4);
}

/* Tiles begin..end-1 of a chunk; the others keep what they have. */
static void locate(const Attention& a, const Block& b, i64 chunk, i64 begin, i64 end, i64 element, Tiles& t) {
  const CacheShape& s = a.shape;
  for (i64 i = begin; i < end; i++) {
    const i64 position = chunk * CHUNK + i * 16, slot = position % s.page_size;
    const i64 page = b.pages[position / s.page_size] * s.page_bytes, tile = (b.kv_head * s.page_size + slot) / 16;
    t.keys[i] = a.k_cache + page + tile * s.head_dim * 16 * element;
    t.values[i] = a.v_cache + page + tile * s.head_dim * 16 * element;
    t.key_scales[i] = a.k_cache + page + s.scales_at + tile * (s.head_dim / 32) * 32;
    t.value_scales[i] = a.v_cache + page + s.scales_at + tile * (s.head_dim / 32) * 32;
  }
}

/* The visible part of a chunk for a block: positions of the chunk that any row sees. */
PSI_INLINE void bounds(const Attention& a, const Block& b, i64 chunk, i64& begin, i64& end) {
  const i64 from = lowest(a, row_position(a, b, 0)) - chunk * CHUNK, to = row_position(a, b, b.rows - 1) + 1 - chunk * CHUNK;
  begin = from > 0 ? from : 0;
  end = to < CHUNK ? to : CHUNK;
}

/* Raw products of R rows with T tiles of keys; fetches the tiles' values, which come next, meanwhile. */
template <class C, int R, int T>
static void products(const Block& b, i64 e, i64 row, const Tiles& at, i64 tile) {
  constexpr int LINE = 64 / (16 * C::BYTES);  // head elements of a tile in 64 bytes
  vf acc[R * T];
  unroll<R * T>([&](auto i) PSI_LAMBDA { acc[i] = zero(); });
  const float* q = b.q + row;
  const u8 *k[T], *next[T];
  unroll<T>([&](auto t) PSI_LAMBDA { k[t] = at.keys[tile + t], next[t] = at.values[tile + t]; });
  constexpr i64 BLOCK = C::SCALED ? 32 : 16;
  for (i64 first = 0; first < e; first += BLOCK) {
    vf scale[T];
    unroll<T>([&](auto t) PSI_LAMBDA { scale[t] = C::SCALED ? load_f16(at.key_scales[tile + t] + first) : zero(); });
    for (i64 d = first; d < first + BLOCK; d += LINE) {
      unroll<T>([&](auto t) PSI_LAMBDA { __builtin_prefetch(next[t] + d * 16 * C::BYTES); });
      unroll<LINE>([&](auto i) PSI_LAMBDA {
        vf x[T];
        unroll<T>([&](auto t) PSI_LAMBDA {
          x[t] = C::elements(k[t] + (d + i) * 16 * C::BYTES);
          if (C::SCALED) x[t] = x[t] * scale[t];
        });
        unroll<R>([&](auto r) PSI_LAMBDA {
          vf u = set1(q[(d + i) * MAX_ROWS + r]);
          unroll<T>([&](auto t) PSI_LAMBDA { acc[r * T + t] = fma(u, x[t], acc[r * T + t]); });
        });
      });
    }
  }
  unroll<R>([&](auto r) PSI_LAMBDA {
    unroll<T>([&](auto t) PSI_LAMBDA { store(b.scores + (row + r) * CHUNK + (tile + t) * 16, acc[r * T + t]); });
  });
}

template <class C, int R>
static void products_of_tiles(const Block& b, i64 e, i64 row, const Tiles& at, i64 begin, i64 end) {
  constexpr int T = side_by_side(R);
  i64 t = begin;
  for (; t + T <= end; t += T) products<C, R, T>(b, e, row, at, t);
  for (; t < end; t++) products<C, R, 1>(b, e, row, at, t);
}

/* Scaled and soft-capped scores of one row of a chunk, -inf where the row may not look; returns their maximum. */
static float mask_row(const Attention& a, const Block& b, i64 row, i64 chunk, i64 tile_begin, i64 tile_end) {
  alignas(64) static const float lanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const vf cap = set1(a.softcap), scale = set1(a.scale), none = set1(-INFINITY);
  const i64 position = row_position(a, b, row), last = position - chunk * CHUNK, first = lowest(a, position) - chunk * CHUNK;
  float* s = b.scores + row * CHUNK;
  vf best = none;
  for (i64 t = tile_begin; t < tile_end; t++) {
    vf x = load(s + t * 16) * scale;
    if (a.softcap > 0) x = cap * tanh(x / cap);
    if (t * 16 + 15 > last || t * 16 < first) {
      const vf lane = load(lanes) + set1((float)(t * 16));
      x = select(gt(lane, set1((float)last)), none, select(lt(lane, set1((float)first)), none, x));
    }
    store(s + t * 16, x);
    best = max(x, best);
  }
  return hmax(best);
}

/*
 * Scores of a chunk to weights: exponentials of the distance to the chunk's maximum; sets m and l. Loops over all rows
 * one after the other keep the rows' chains of dependent instructions side by side.
 */
static void soften(const Attention& a, Block& b, i64 chunk, i64 tile_begin, i64 tile_end) {
  for (i64 r = 0; r < b.rows; r++) b.m[r] = mask_row(a, b, r, chunk, tile_begin, tile_end);
  float sums[MAX_ROWS * 16];
  for (i64 r = 0; r < b.rows; r++) {
    float* s = b.scores + r * CHUNK;
    const vf top = set1(b.m[r]), none = set1(-INFINITY);
    vf sum = zero();
    for (i64 t = tile_begin; t < tile_end; t++) {
      const vf x = load(s + t * 16), p = select(eq(x, none), zero(), exp(x - top));
      store(s + t * 16, p);
      sum = sum + p;
    }
    store(sums + r * 16, sum);
  }
  for (i64 r = 0; r < b.rows; r++) b.l[r] = hsum(load(sums + r * 16));
}

/* partial[row .. row+R][16*V columns from d] = weights * values of positions begin..end; fetches keys of the next chunk. */
template <class C, int R, int V>
static void accumulate(const Block& b, i64 e, i64 row, i64 d, i64 begin, i64 end, const Tiles& at, const Tiles& ahead) {
  vf acc[R * V];
  unroll<R * V>([&](auto i) PSI_LAMBDA { acc[i] = zero(); });
  const float* weights = b.scores + row * CHUNK;
  for (i64 j = begin; j < end;) {
    const i64 tile = j / 16, stop = tile * 16 + 16 < end ? tile * 16 + 16 : end;
    const u8* values = at.values[tile] + (j % 16 * e + d) * C::BYTES;
    const u8* next = ahead.keys[tile] + (j % 16 * e + d) * C::BYTES;
    for (; j < stop; j++, values += e * C::BYTES, next += e * C::BYTES) {
      constexpr int LINES = V * 16 * C::BYTES > 64 ? V * 16 * C::BYTES / 64 : 1;
      unroll<LINES>([&](auto i) PSI_LAMBDA { __builtin_prefetch(next + i * 64); });
      vf v[V];
      unroll<V>([&](auto i) PSI_LAMBDA {
        v[i] = C::elements(values + i * 16 * C::BYTES);
        if (C::SCALED) v[i] = v[i] * set1(b.scales[j * (e / 32) + (d + i * 16) / 32]);
      });
      unroll<R>([&](auto r) PSI_LAMBDA {
        vf p = set1(weights[r * CHUNK + j]);
        unroll<V>([&](auto i) PSI_LAMBDA { acc[r * V + i] = fma(p, v[i], acc[r * V + i]); });
      });
    }
  }
  unroll<R>([&](auto r) PSI_LAMBDA {
    unroll<V>([&](auto i) PSI_LAMBDA { store(b.partial + (row + r) * b.partial_stride + d + i * 16, acc[r * V + i]); });
  });
}

template <class C, int R>
static void accumulate_columns(const Block& b, i64 e, i64 row, i64 begin, i64 end, const Tiles& at, const Tiles& ahead) {
  constexpr int V = side_by_side(R);
  i64 d = 0;
  for (; d + 16 * V <= e; d += 16 * V) accumulate<C, R, V>(b, e, row, d, begin, end, at, ahead);
  for (; d < e; d += 16) accumulate<C, R, 1>(b, e, row, d, begin, end, at, ahead);
}

/*
 * Rows whose own part of begin..end is narrower gave the rest weight 0, and 0 times an infinite or NaN value is NaN: such
 * a row is summed again by itself, over what it sees. Only chunks at the edge of what a block sees have such rows.
 */
template <class C>
static void repair_rows(const Attention& a, const Block& b, i64 chunk, i64 begin, i64 end, const Tiles& at) {
  const i64 e = a.shape.head_dim;
  for (i64 r = 0; r < b.rows; r++) {
    const i64 position = row_position(a, b, r), from = lowest(a, position) - chunk * CHUNK, to = position + 1 - chunk * CHUNK;
    const i64 first = from > begin ? from : begin, last = to < end ? to : end;
    if (first == begin && last == end) continue;
    vf probe = zero();
    for (i64 d = 0; d < e; d += 16) probe = fma(load(b.partial + r * b.partial_stride + d), zero(), probe);
    if (hsum(probe) != 0) accumulate_columns<C, 1>(b, e, r, first, last, at, at);
  }
}

/* Calls body(Index<R>, row) for runs of MOST, ..., 2, 1 rows that make up all. */
template <int R, class F>
PSI_INLINE void in_runs(i64 row, i64 rows, F&& body) {
  for (; row + R <= rows; row += R) body(Index<R>{}, row);
  if constexpr (R > 1) in_runs<R / 2>(row, rows, body);
}

/* One chunk of all rows: m, l and partial. `last`: no chunk of this block follows. */
template <class C>
static void attend_chunk(const Attention& a, Block& b, i64 chunk, bool last) {
  const i64 e = a.shape.head_dim;
  i64 begin, end;
  bounds(a, b, chunk, begin, end);
  const i64 tile_begin = begin / 16, tile_end = (end + 15) / 16;
  Tiles at, ahead;
  locate(a, b, chunk, tile_begin, tile_end, C::BYTES, at);
  ahead = at;
  if (!last) {
    i64 next_begin, next_end;
    bounds(a, b, chunk + 1, next_begin, next_end);
    locate(a, b, chunk + 1, next_begin / 16, (next_end + 15) / 16, C::BYTES, ahead);
  }
  in_runs<MOST>(0, b.rows, [&](auto r, i64 row) PSI_LAMBDA { products_of_tiles<C, r>(b, e, row, at, tile_begin, tile_end); });
  soften(a, b, chunk, tile_begin, tile_end);
  if (C::SCALED)
    for (i64 t = tile_begin; t < tile_end; t++)
      for (i64 i = 0; i < e / 32; i++) store(b.scales + (t * (e / 32) + i) * 16, load_f16(at.value_scales[t] + i * 32));
  in_runs<MOST>(0, b.rows, [&](auto r, i64 row) PSI_LAMBDA { accumulate_columns<C, r>(b, e, row, begin, end, at, ahead); });
  if (row_position(a, b, 0) != row_position(a, b, b.rows - 1)) repair_rows<C>(a, b, chunk, begin, end, at);
}

/*
 * Takes chunks (m, l) into the running (M, L) of 16 rows; old and now: what the running and the chunk's accumulators
 * are to be multiplied by.
 */
static void merge_sums(float* M, float* L, const float* m, const float* l, float* old, float* now) {
  const vf none = set1(-INFINITY), before = load(M), chunk = load(m), top = max(before, chunk);
  const vf keep = select(eq(before, none), zero(), exp(before - top)), take = select(eq(chunk, none), zero(), exp(chunk - top));
  store(L, load(L) * keep + load(l) * take);
  store(M, top);
  store(old, keep);
  store(now, take);
}
static void merge_row(float* O, const float* o, float old, float now, i64 e) {
  for (i64 d = 0; d < e; d += 16) store(O + d, fma(load(o + d), set1(now), load(O + d) * set1(old)));
}

PSI_INLINE float exp1(float x) {
  float lanes[16];
  store(lanes, exp(set1(x)));
  return lanes[0];
}

static void finish(const Attention& a, i64 token, i64 head, float M, float L, const float* O) {
  const i64 e = a.shape.head_dim;
  float* y = a.y + (token * a.heads + head) * e;
  if (M == -INFINITY && L == 0) {
    memset(y, 0, (size_t)e * 4);
    return;
  }
  float factor = 1;
  if (a.sinks) {
    const float sink = a.sinks[head], top = sink > M ? sink : M;
    factor = exp1(M - top);
    L = L * factor + (sink == -INFINITY ? 0.0f : exp1(sink - top));
  }
  const vf scale = set1(factor / L);
  for (i64 d = 0; d < e; d += 16) store(y + d, load(O + d) * scale);
}

/* A run of tokens in ascending chunks. */
template <class C>
static void attend_block(const Attention& a, Block& b) {
  const i64 e = a.shape.head_dim;
  const i64 first = lowest(a, row_position(a, b, 0)) / CHUNK, last = row_position(a, b, b.rows - 1) / CHUNK;
  for (i64 chunk = first; chunk <= last; chunk++) {
    attend_chunk<C>(a, b, chunk, chunk == last);
    float old[MAX_ROWS], now[MAX_ROWS];
    for (i64 r = 0; r < b.rows; r += 16) merge_sums(b.M + r, b.L + r, b.m + r, b.l + r, old + r, now + r);
    for (i64 r = 0; r < b.rows; r++)
      if (b.m[r] != -INFINITY) merge_row(b.total + r * e, b.partial + r * e, old[r], now[r], e);
  }
  for (i64 r = 0; r < b.rows; r++)
    finish(a, b.first_token + r / b.head_count, b.first_head + r % b.head_count, b.M[r], b.L[r], b.total + r * e);
}

/* The block of a token run, kv head and piece of the group's heads. */
static Block block_of(const Attention& a, i64 token, i64 count, i64 kv_head, i64 piece) {
  const i64 group = a.heads / a.shape.kv_heads, head = piece * MAX_ROWS;
  Block b = {};
  b.first_token = token, b.token_count = count, b.kv_head = kv_head, b.first_head = kv_head * group + head;
  b.head_count = group - head < MAX_ROWS ? group - head : MAX_ROWS;
  return b;
}

/* Few tokens: spans of chunks of a (token, kv head, piece) are tasks of their own; then the merges. */
template <class C>
static void attend_split(const Attention& a, i64 pieces) {
  const i64 e = a.shape.head_dim, chunks = (a.shape.max_pages * a.shape.page_size + CHUNK - 1) / CHUNK, record = e + 2;
  const i64 parts = a.shape.kv_heads * pieces;
  i64 all = 0, ends[SPLIT_TOKENS];
  for (i64 t = 0; t < a.tokens; t++) all += a.token_position[t] / CHUNK - lowest(a, a.token_position[t]) / CHUNK + 1;
  const i64 share = all * parts / (pool_threads() * 4), span = share > 1 ? share : 1;
  for (i64 t = 0, tasks = 0; t < a.tokens; t++) {
    const i64 count = a.token_position[t] / CHUNK - lowest(a, a.token_position[t]) / CHUNK + 1;
    ends[t] = tasks += (count + span - 1) / span * parts;
  }
  parallel(ends[a.tokens - 1], [&](i64 task, int thread) {
    i64 token = 0;
    while (task >= ends[token]) token++;
    if (token > 0) task -= ends[token - 1];
    const i64 position = a.token_position[token], part = task % parts;
    const i64 first = lowest(a, position) / CHUNK + task / parts * span;
    const i64 last = first + span - 1 < position / CHUNK ? first + span - 1 : position / CHUNK;
    Block b = block_of(a, token, 1, part / pieces, part % pieces);
    place_block(a, b, thread_scratch(thread));
    b.partial_stride = chunks * record;
    for (i64 chunk = first; chunk <= last; chunk++) {
      float* out = a.scratch + ((token * a.heads + b.first_head) * chunks + chunk) * record;
      b.partial = out + 2;
      attend_chunk<C>(a, b, chunk, chunk == last);
      for (i64 r = 0; r < b.rows; r++) out[r * b.partial_stride] = b.m[r], out[r * b.partial_stride + 1] = b.l[r];
    }
  });
  parallel(a.tokens * a.heads, [&](i64 task, int thread) {
    const i64 position = a.token_position[task / a.heads];
    float M[16], L[16] = {0}, m[16] = {0}, l[16] = {0}, old[16], now[16];
    store(M, set1(-INFINITY));
    float* O = (float*)thread_scratch(thread);
    memset(O, 0, (size_t)e * 4);
    for (i64 chunk = lowest(a, position) / CHUNK; chunk <= position / CHUNK; chunk++) {
      const float* in = a.scratch + (task * chunks + chunk) * record;
      m[0] = in[0], l[0] = in[1];
      merge_sums(M, L, m, l, old, now);
      if (m[0] != -INFINITY) merge_row(O, in + 2, old[0], now[0], e);
    }
    finish(a, task / a.heads, task % a.heads, M[0], L[0], O);
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
  const i64 group = a.heads / a.shape.kv_heads, pieces = (group + MAX_ROWS - 1) / MAX_ROWS, parts = a.shape.kv_heads * pieces;
  const i64 most = group >= MAX_ROWS ? 1 : MAX_ROWS / group;
  i64 runs = 0;
  for (i64 t = 0; t < a.tokens; t = run_end(a, t, most)) runs++;
  if (a.tokens <= SPLIT_TOKENS && pool_threads() > 1 && runs * parts < 4 * pool_threads()) return attend_split<C>(a, pieces);
  /* First tokens of the runs, of every `step`th one if there are very many. */
  constexpr i64 KEPT = 4096;
  i32 starts[KEPT];
  const i64 step = (runs + KEPT - 1) / KEPT;
  i64 run = 0;
  for (i64 t = 0; t < a.tokens; t = run_end(a, t, most), run++)
    if (run % step == 0) starts[run / step] = (i32)t;
  parallel(runs * parts, [&](i64 task, int thread) {
    const i64 part = task % parts;
    i64 token = starts[task / parts / step];
    for (i64 i = task / parts % step; i > 0; i--) token = run_end(a, token, most);
    Block b = block_of(a, token, run_end(a, token, most) - token, part / pieces, part % pieces);
    place_block(a, b, thread_scratch(thread));
    attend_block<C>(a, b);
  });
}

void attention(const Attention& a) {
  if (a.tokens == 0) return;
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
  if (a.cache_type == psi::FP8) return psi::e4m3_to_f32(p[i]);
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
  if (a.cache_type == psi::FP8) return psi::e4m3_to_f32(p[i]);
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
