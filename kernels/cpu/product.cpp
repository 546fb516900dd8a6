/*
 * Register-tiled products over packed weights (formulas: product.h; layout: common/panel.h).
 *
 * Up to DIRECT_ROWS rows (decoding): one pass over a panel, codes expanded in registers, bound by memory. More rows
 * (prompts, batches): a panel pair is expanded in pieces of 512 columns into 16 KiB that stay in L1, and all rows run
 * over each piece in tiles of TILE_PANELS x TILE_ROWS accumulators. Both paths are the same function, tile().
 */
#include "product.h"

#include "../common/panel.h"
#include "../common/pool.h"

namespace psi::PSI_ISA {

constexpr i64 PIECE = 16;        /* blocks of 32 columns expanded at a time */
constexpr i64 ROW_CHUNK = 512;   /* rows whose accumulators are kept at a time */
constexpr i64 FLOAT_PIECE = 512; /* columns of float weights per pass over the rows */

/* ---- activations ---- */

template <int HALVES>
static void quantize_row(InputBlock* out, const float* x, i64 blocks, i32 bias) {
  vf probe = zero(); /* NaN when any input is NaN or infinite */
  for (i64 b = 0; b < blocks; b++) {
    vf lo = load(x + 32 * b), hi = load(x + 32 * b + 16);
    probe = fma(lo + hi, zero(), probe);
    float largest = hmax(max(abs(lo), abs(hi)));
    InputBlock& o = out[b];
    o.d = largest / 127.0f;
    vf inverse = set1(largest > 0 ? 127.0f / largest : 0.0f);
    vi qlo = cvt_round(lo * inverse), qhi = cvt_round(hi * inverse);
    store_s8(o.q, qlo);
    store_s8(o.q + 16, qhi);
    if (HALVES == 1) {
      i32 sum = hsumi(addi(qlo, qhi));
      o.start[0] = -bias * sum;
      o.dsum[0] = o.d * (float)sum;
    } else {
      i32 s0 = hsumi(qlo), s1 = hsumi(qhi);
      o.start[0] = -bias * s0;
      o.start[1] = -bias * s1;
      o.dsum[0] = o.d * (float)s0;
      o.dsum[1] = o.d * (float)s1;
    }
  }
  float total = hsum(probe);
  if (total != total) out[0].d = total;
}

/* Codes above 127 are read as signed ones where the machine has no unsigned-by-signed product. */
template <class T>
constexpr bool as_signed = T::WIDE && !FAST_U8S8;

void quantize_inputs(InputBlock* in, const float* x, i64 rows, i64 columns, i32 dtype) {
  const i64 blocks = columns / 32;
  with_block_type(dtype, [&](auto type) {
    typedef decltype(type) T;
    const i32 bias = as_signed<T> ? 0 : T::BIAS;
    auto one = [&](i64 r, int) { quantize_row<T::HALVES>(in + r * blocks, x + r * columns, blocks, bias); };
    if (rows * columns >= 32768) parallel(rows, one);
    else
      for (i64 r = 0; r < rows; r++) one(r, 0);
  });
}

/* ---- where a tile's weights come from ---- */

/* Codes and scales in the panel itself. */
template <class T_>
struct Direct {
  typedef T_ T;
  const u8* panel;
  i64 blocks;
  PSI_INLINE vf scale_of(const Direct& s, i64 b, int h) { return T::scale(s.panel, s.blocks, b, h); }
  PSI_INLINE vf min_of(const Direct& s, i64 b, int h) { return T::min(s.panel, s.blocks, b, h); }
  PSI_INLINE void codes_of(const Direct& s, i64 b, vb* w) {
    constexpr int ahead = 3072;
    const u8* low = T::low(s.panel, b);
    unroll<T::LOW>([&](auto i) PSI_LAMBDA { __builtin_prefetch(low + ahead + 64 * i); });
    T::codes(s.panel, s.blocks, b, w);
  }
};

/* One piece of a panel, expanded. Block b of the piece is block first + b of the input row. */
template <class T_>
struct Expanded {
  typedef T_ T;
  const u8* codes;
  const float* scales;
  const float* mins;
  PSI_INLINE vf scale_of(const Expanded& s, i64 b, int h) { return load(s.scales + (b * T::HALVES + h) * 16); }
  PSI_INLINE vf min_of(const Expanded& s, i64 b, int h) { return load(s.mins + (b * T::HALVES + h) * 16); }
};

/* The properties that tile() depends on, so that types which share them share its code. */
template <int HALVES_, bool MINS_, bool WIDE_>
struct Shape {
  static constexpr int HALVES = HALVES_;
  static constexpr bool MINS = MINS_, WIDE = WIDE_;
};

template <class T>
PSI_INLINE vi dot(vi acc, vb w, vi x) {
  if constexpr (!T::WIDE) return dot4_u7s8(acc, w, x);
  else if constexpr (FAST_U8S8) return dot4_u8s8(acc, w, x);
  else return dot4_s8s8(acc, w, x);
}

PSI_INLINE vi four_inputs(const InputBlock& block, int g) {
  i32 v;
  memcpy(&v, block.q + 4 * g, 4);
  return set1i(v);
}

/*
 * acc[r][p] over `count` blocks for P panels and R rows; x[r] points at the first block. Expanded codes are loaded
 * group by group, direct ones are decoded for the whole block first.
 */
template <class S, int P, int R>
static void tile(const S* sources, i64 count, const InputBlock* const* x, float* acc) {
  typedef typename S::T T;
  constexpr bool direct = std::is_same<S, Direct<T>>::value;
  vf total[P][R];
  unroll<R>([&](auto r) PSI_LAMBDA { unroll<P>([&](auto p) PSI_LAMBDA { total[p][r] = load(acc + (r * P + p) * 16); }); });
  for (i64 b = 0; b < count; b++) {
    vb w[8];
    if constexpr (direct) {
      static_assert(P == 1, "direct tiles have one panel");
      S::codes_of(sources[0], b, w);
      if constexpr (as_signed<T>) unroll<8>([&](auto g) PSI_LAMBDA { w[g] = xorb(w[g], set1b(128)); });
    }
    unroll<T::HALVES>([&](auto h) PSI_LAMBDA {
      constexpr int GROUPS = 8 / T::HALVES, FIRST = h * GROUPS;
      vi sum[P][R];
      unroll<R>([&](auto r) PSI_LAMBDA {
        vi start = set1i(x[r][b].start[h]);
        unroll<P>([&](auto p) PSI_LAMBDA { sum[p][r] = start; });
      });
      unroll<GROUPS>([&](auto j) PSI_LAMBDA {
        constexpr int G = FIRST + j;
        vb codes[P];
        unroll<P>([&](auto p) PSI_LAMBDA {
          if constexpr (direct) {
            codes[p] = w[G];
          } else {
            codes[p] = loadb(sources[p].codes + b * 512 + 64 * G);
            if constexpr (as_signed<T>) codes[p] = xorb(codes[p], set1b(128));
          }
        });
        unroll<R>([&](auto r) PSI_LAMBDA {
          vi in = four_inputs(x[r][b], G);
          unroll<P>([&](auto p) PSI_LAMBDA { sum[p][r] = dot<T>(sum[p][r], codes[p], in); });
        });
      });
      unroll<P>([&](auto p) PSI_LAMBDA {
        vf scale = S::scale_of(sources[p], b, h);
        unroll<R>([&](auto r) PSI_LAMBDA { total[p][r] = fma(cvt(sum[p][r]) * scale, set1(x[r][b].d), total[p][r]); });
        if constexpr (T::MINS) {
          vf min = S::min_of(sources[p], b, h);
          unroll<R>([&](auto r) PSI_LAMBDA { total[p][r] = fma(min, set1(x[r][b].dsum[h]), total[p][r]); });
        }
      });
    });
  }
  unroll<R>([&](auto r) PSI_LAMBDA { unroll<P>([&](auto p) PSI_LAMBDA { store(acc + (r * P + p) * 16, total[p][r]); }); });
}

/* tile() with R from 1 to MAX_R chosen at run time. */
template <class S, int P, int MAX_R>
static void tile_rows(const S* sources, i64 count, const InputBlock* const* x, float* acc, int rows) {
  if (rows == MAX_R) return tile<S, P, MAX_R>(sources, count, x, acc);
  if constexpr (MAX_R > 1) tile_rows<S, P, MAX_R - 1>(sources, count, x, acc, rows);
}

/* ---- tasks ---- */

PSI_INLINE i64 slot_of(const ProductTask& t, i64 i) { return t.slots ? t.slots[i] : t.first_row + i; }

/* Writes 16 accumulators of row i and one panel. */
PSI_INLINE void write_row(const ProductTask& t, i64 i, i64 panel, const float* acc) {
  const i64 n = t.outputs - panel * 16;
  float* y = t.y + slot_of(t, i) * t.outputs + panel * 16;
  vf v = load(acc);
  if (n >= 16) {
    store(y, t.bias ? v + load(t.bias + panel * 16) : v);
  } else {
    store_n(y, t.bias ? v + load_n(t.bias + panel * 16, (int)n) : v, (int)n);
  }
}

template <class T>
static void few_rows(const ProductTask& t, i64 size) {
  const i64 blocks = t.columns / 32;
  const InputBlock* x[DIRECT_ROWS];
  for (i64 i = 0; i < t.rows; i++) x[i] = t.in + slot_of(t, i) / t.slots_per_input * blocks;
  for (i64 p = t.first_panel; p < t.first_panel + t.panel_count; p++) {
    alignas(64) float acc[DIRECT_ROWS * 16] = {};
    Direct<T> source = {t.panels + p * size, blocks};
    tile_rows<Direct<T>, 1, DIRECT_ROWS>(&source, blocks, x, acc, (int)t.rows);
    for (i64 i = 0; i < t.rows; i++) write_row(t, i, p, acc + 16 * i);
  }
}

/* Places in a thread's scratch memory. */
struct Workspace {
  float* acc;    /* [ROW_CHUNK][TILE_PANELS * 16] */
  u8* codes;     /* [TILE_PANELS][PIECE * 512] */
  float* scales; /* [TILE_PANELS][PIECE * 2 * 16] */
  float* mins;
};
PSI_INLINE Workspace workspace(u8* scratch) {
  Workspace w;
  w.acc = (float*)scratch;
  w.codes = (u8*)(w.acc + ROW_CHUNK * TILE_PANELS * 16);
  w.scales = (float*)(w.codes + TILE_PANELS * PIECE * 512);
  w.mins = w.scales + TILE_PANELS * PIECE * 32;
  static_assert((ROW_CHUNK * 64 + PIECE * 512 + 2 * PIECE * 128) * TILE_PANELS <= THREAD_SCRATCH, "scratch too small");
  return w;
}

/* Expands blocks first..first+count of a panel; 8-bit codes stay where they are. */
template <class T>
static const u8* expand(const u8* panel, i64 blocks, i64 first, i64 count, u8* codes, float* scales, float* mins) {
  for (i64 b = 0; b < count; b++) {
    if constexpr (T::LOW != 8) {
      vb w[8];
      T::codes(panel, blocks, first + b, w);
      unroll<8>([&](auto i) PSI_LAMBDA { storeb(codes + b * 512 + 64 * i, w[i]); });
    }
    unroll<T::HALVES>([&](auto h) PSI_LAMBDA {
      store(scales + (b * T::HALVES + h) * 16, T::scale(panel, blocks, first + b, h));
      if constexpr (T::MINS) store(mins + (b * T::HALVES + h) * 16, T::min(panel, blocks, first + b, h));
    });
  }
  return T::LOW == 8 ? T::low(panel, first) : codes;
}

/* Rows from..from+rows (at most ROW_CHUNK) by P panels. */
template <class T, int P>
static void many_rows(const ProductTask& t, i64 size, i64 panel, i64 from, i64 rows) {
  typedef Expanded<Shape<T::HALVES, T::MINS, T::WIDE>> S;
  const i64 blocks = t.columns / 32;
  Workspace w = workspace(t.scratch);
  memset(w.acc, 0, (size_t)(rows * P * 64));
  for (i64 first = 0; first < blocks; first += PIECE) {
    const i64 count = blocks - first < PIECE ? blocks - first : PIECE;
    S sources[P];
    for (int p = 0; p < P; p++) {
      float* scales = w.scales + p * PIECE * 32;
      float* mins = w.mins + p * PIECE * 32;
      sources[p] = {expand<T>(t.panels + (panel + p) * size, blocks, first, count, w.codes + p * PIECE * 512, scales, mins), scales, mins};
    }
    for (i64 i = 0; i < rows; i += TILE_ROWS) {
      const int n = (int)(rows - i < TILE_ROWS ? rows - i : TILE_ROWS);
      const InputBlock* x[TILE_ROWS];
      for (int r = 0; r < n; r++) x[r] = t.in + slot_of(t, from + i + r) / t.slots_per_input * blocks + first;
      tile_rows<S, P, TILE_ROWS>(sources, count, x, w.acc + i * P * 16, n);
    }
  }
  for (i64 i = 0; i < rows; i++)
    for (int p = 0; p < P; p++) write_row(t, from + i, panel + p, w.acc + (i * P + p) * 16);
}

template <class T>
static void block_product(const ProductTask& t, i64 size) {
  if (t.rows <= DIRECT_ROWS) return few_rows<T>(t, size);
  const i64 last = t.first_panel + t.panel_count;
  for (i64 from = 0; from < t.rows; from += ROW_CHUNK) {
    const i64 rows = t.rows - from < ROW_CHUNK ? t.rows - from : ROW_CHUNK;
    i64 p = t.first_panel;
    for (; p + TILE_PANELS <= last; p += TILE_PANELS) many_rows<T, TILE_PANELS>(t, size, p, from, rows);
    for (; p < last; p++) many_rows<T, 1>(t, size, p, from, rows);
  }
}

/* ---- float weights ---- */

template <class T, int P, int R>
static void float_tile(const u8* const* w, i64 count, const float* const* x, float* acc) {
  vf total[P][R];
  unroll<R>([&](auto r) PSI_LAMBDA { unroll<P>([&](auto p) PSI_LAMBDA { total[p][r] = load(acc + (r * P + p) * 16); }); });
  for (i64 k = 0; k < count; k++) {
    vf column[P];
    unroll<P>([&](auto p) PSI_LAMBDA { column[p] = T::column(w[p] + k * (16 * T::BYTES)); });
    unroll<R>([&](auto r) PSI_LAMBDA {
      vf in = set1(x[r][k]);
      unroll<P>([&](auto p) PSI_LAMBDA { total[p][r] = fma(column[p], in, total[p][r]); });
    });
  }
  unroll<R>([&](auto r) PSI_LAMBDA { unroll<P>([&](auto p) PSI_LAMBDA { store(acc + (r * P + p) * 16, total[p][r]); }); });
}

template <class T, int P, int MAX_R>
static void float_tile_rows(const u8* const* w, i64 count, const float* const* x, float* acc, int rows) {
  if (rows == MAX_R) return float_tile<T, P, MAX_R>(w, count, x, acc);
  if constexpr (MAX_R > 1) float_tile_rows<T, P, MAX_R - 1>(w, count, x, acc, rows);
}

template <class T, int P>
static void float_rows(const ProductTask& t, i64 size, i64 panel, i64 from, i64 rows) {
  static_assert(ROW_CHUNK * FLOAT_PANELS * 64 <= THREAD_SCRATCH, "scratch too small");
  float* acc = (float*)t.scratch;
  memset(acc, 0, (size_t)(rows * P * 64));
  for (i64 first = 0; first < t.columns; first += FLOAT_PIECE) {
    const i64 count = t.columns - first < FLOAT_PIECE ? t.columns - first : FLOAT_PIECE;
    const u8* w[P];
    for (int p = 0; p < P; p++) w[p] = t.panels + (panel + p) * size + first * 16 * T::BYTES;
    for (i64 i = 0; i < rows; i += FLOAT_ROWS) {
      const int n = (int)(rows - i < FLOAT_ROWS ? rows - i : FLOAT_ROWS);
      const float* x[FLOAT_ROWS];
      for (int r = 0; r < n; r++) x[r] = t.x + slot_of(t, from + i + r) / t.slots_per_input * t.columns + first;
      float_tile_rows<T, P, FLOAT_ROWS>(w, count, x, acc + i * P * 16, n);
    }
  }
  for (i64 i = 0; i < rows; i++)
    for (int p = 0; p < P; p++) write_row(t, from + i, panel + p, acc + (i * P + p) * 16);
}

template <class T>
static void float_product(const ProductTask& t, i64 size) {
  const i64 last = t.first_panel + t.panel_count;
  for (i64 from = 0; from < t.rows; from += ROW_CHUNK) {
    const i64 rows = t.rows - from < ROW_CHUNK ? t.rows - from : ROW_CHUNK;
    i64 p = t.first_panel;
    for (; p + FLOAT_PANELS <= last; p += FLOAT_PANELS) float_rows<T, FLOAT_PANELS>(t, size, p, from, rows);
    for (; p < last; p++) float_rows<T, 1>(t, size, p, from, rows);
  }
}

void product(const ProductTask& t) {
  const i64 size = panel_bytes(*find_type(t.dtype), t.columns);
  if (with_block_type(t.dtype, [&](auto type) { block_product<decltype(type)>(t, size); })) return;
  with_float_type(t.dtype, [&](auto type) { float_product<decltype(type)>(t, size); });
}

}  // namespace psi::PSI_ISA
