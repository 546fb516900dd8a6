/*
 * Register-tiled products over packed weights (formulas: product.h; layout: common/panel.h).
 *
 * Few rows (decoding): one pass over a few panels, codes expanded in registers, bound by memory. More rows (batches,
 * prompts): panels are expanded in pieces of 512 columns into 16 KiB that stay in L1, and all rows run over each piece
 * in tiles of TILE_PANELS x TILE_ROWS accumulators, which fetch the next piece. With AMX: product_tiles.h. All do the same
 * operations on a (row, output).
 */
#include "product.h"

#include "../common/panel.h"
#include "../common/pool.h"
#include "product_rows.h"
#include "product_tiles.h"

namespace psi::PSI_ISA {

/* ---- activations ---- */

/* A block's codes with what their sums give `start`; sum = 256 * sum + those sums. */
template <int HALVES>
PSI_INLINE void set_codes(InputBlock& o, vi q0, vi q1, i32 bias, i32* sum) {
  store_s8(o.q, q0);
  store_s8(o.q + 16, q1);
  const i32 own[2] = {HALVES == 1 ? hsumi(addi(q0, q1)) : hsumi(q0), HALVES == 1 ? 0 : hsumi(q1)};
  for (int h = 0; h < HALVES; h++) {
    o.start[h] = -bias * own[h];
    sum[h] = 256 * sum[h] + own[h];
  }
}

template <int HALVES, int PARTS>
static void quantize_row(InputBlock* in, i64 rows, i64 row, const float* x, i64 blocks, i32 bias) {
  constexpr float most = PARTS == 2 ? 127 * 256 : 127;
  auto block = [&](i64 b, int part) PSI_LAMBDA -> InputBlock& {
    return in[input_place(rows * PARTS, blocks, row * PARTS + part, b / PIECE * PIECE) + b % PIECE];
  };
  vf probe = zero(); /* NaN when any input is NaN or infinite */
  for (i64 b = 0; b < blocks; b++) {
    vf x0 = load(x + 32 * b), x1 = load(x + 32 * b + 16);
    probe = fma(x0 + x1, zero(), probe);
    float largest = hmax(max(abs(x0), abs(x1)));
    vf inverse = set1(largest > 0 ? most / largest : 0.0f);
    vi q0 = cvt_round(x0 * inverse), q1 = cvt_round(x1 * inverse);
    i32 sum[2] = {};
    if constexpr (PARTS == 2) {
      const vi half = set1i(128), least = set1i(-127); /* a byte of -128 has no negative, which some machines take */
      vi upper0 = sari<8>(addi(q0, half)), upper1 = sari<8>(addi(q1, half));
      set_codes<HALVES>(block(b, 0), upper0, upper1, bias, sum);
      q0 = maxi(subi(q0, shli<8>(upper0)), least);
      q1 = maxi(subi(q1, shli<8>(upper1)), least);
    }
    InputBlock& last = block(b, PARTS - 1);
    set_codes<HALVES>(last, q0, q1, bias, sum);
    last.d = largest / most;
    for (int h = 0; h < HALVES; h++) last.dsum[h] = last.d * (float)sum[h];
  }
  float total = hsum(probe);
  if (total != total) block(0, PARTS - 1).d = total;
}

/* Codes above 127 are read as signed ones where the machine has no unsigned-by-signed product. */
template <class T>
constexpr bool as_signed = T::WIDE && !FAST_U8S8;

void quantize_inputs(InputBlock* in, const float* x, i64 rows, i64 columns, i32 dtype, int parts) {
  const i64 blocks = columns / 32;
  with_block_type(dtype, [&](auto type) {
    typedef decltype(type) T;
    const i32 bias = as_signed<T> ? 0 : T::BIAS;
    auto one = [&](i64 r, int) {
      if (parts == 2) quantize_row<T::HALVES, 2>(in, rows, r, x + r * columns, blocks, bias);
      else quantize_row<T::HALVES, 1>(in, rows, r, x + r * columns, blocks, bias);
    };
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
  i64 blocks, first; /* of the panel; of the piece */
  PSI_INLINE vf scale_of(const Direct& s, i64 b, int h) { return T::scale(s.panel, s.blocks, s.first + b, h); }
  PSI_INLINE vf min_of(const Direct& s, i64 b, int h) { return T::min(s.panel, s.blocks, s.first + b, h); }
  PSI_INLINE void codes_of(const Direct& s, i64 b, vb* w) {
    constexpr int ahead = T::LOW == 8 ? 1024 : 2048; /* bytes, to the second cache: what waits for memory is more than the first can wait for */
    const u8* low = T::low(s.panel, s.first + b);
    unroll<T::LOW>([&](auto i) PSI_LAMBDA { __builtin_prefetch(low + ahead + 64 * i, 0, 2); });
    T::codes(s.panel, s.blocks, s.first + b, w);
  }
};

/* Codes in the panel; scales and mins, which share records of many blocks, expanded for a piece. */
template <class T_>
struct Scaled {
  typedef T_ T;
  Direct<T> panel;
  const float* scales;
  const float* mins;
  PSI_INLINE vf scale_of(const Scaled& s, i64 b, int h) { return load(s.scales + (b * T::HALVES + h) * 16); }
  PSI_INLINE vf min_of(const Scaled& s, i64 b, int h) { return load(s.mins + (b * T::HALVES + h) * 16); }
  PSI_INLINE void codes_of(const Scaled& s, i64 b, vb* w) { Direct<T>::codes_of(s.panel, b, w); }
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

/* How many vectors of a block's codes are multiplied before their 16-bit sums join the 32-bit ones: a divisor of those
   under one scale whose products with activations of at most 127 fit. */
template <class T>
constexpr int vectors_in_words() {
  if (!WORD_SUMS || T::WIDE) return 1;
  const int largest = T::ID == MXFP4 ? 24 : (1 << (T::LOW + T::HIGH)) - 1, fit = 32767 / (2 * 127 * largest);
  int n = 8 / T::HALVES;
  while (n > fit) n /= 2;
  return n;
}

/* The properties that tile() depends on, so that types which share them share its code. */
template <int HALVES_, bool MINS_, bool WIDE_, int IN_WORDS_>
struct Shape {
  static constexpr int HALVES = HALVES_, IN_WORDS = IN_WORDS_;
  static constexpr bool MINS = MINS_, WIDE = WIDE_;
};
template <class T>
using ShapeOf = Shape<T::HALVES, T::MINS, T::WIDE, vectors_in_words<T>()>;

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

/* Adds one scale's share of a block for R rows of A parts: sums of products, scaled; and the second term. */
template <class T, int R, int A, class S>
PSI_INLINE void add_scaled(vf* total, const vi* sum, const S& source, i64 b, int h, const InputBlock* const* x) {
  vf scale = S::scale_of(source, b, h);
  unroll<R>([&](auto r) PSI_LAMBDA {
    vi whole = A == 2 ? addi(shli<8>(sum[r * A]), sum[r * A + A - 1]) : sum[r];
    total[r] = fma(cvt(whole) * scale, set1(x[r * A + A - 1][b].d), total[r]);
  });
  if constexpr (T::MINS) {
    vf min = S::min_of(source, b, h);
    unroll<R>([&](auto r) PSI_LAMBDA { total[r] = fma(min, set1(x[r * A + A - 1][b].dsum[h]), total[r]); });
  }
}

/* What a tile fetches for later, a little beside each block, so that reads from memory never come in bursts: of each
   panel's planes of low and of high code bits, `lines` cache lines at at[plane][p] + b * step. */
struct Ahead {
  const u8* at[2][TILE_PANELS];
  i64 step[2], lines[2];
};

/* acc[r][p] over `count` expanded blocks for P panels and R rows of A parts; x[r * A + part] points at the first block. */
template <class S, int P, int R, int A>
static void tile(const S* sources, i64 count, const InputBlock* const* x, float* acc, const Ahead& ahead) {
  typedef typename S::T T;
  vf total[P][R];
  unroll<R>([&](auto r) PSI_LAMBDA { unroll<P>([&](auto p) PSI_LAMBDA { total[p][r] = load(acc + (r * P + p) * 16); }); });
  for (i64 b = 0; b < count; b++) {
    unroll<2>([&](auto k) PSI_LAMBDA {
      for (i64 l = 0; l < ahead.lines[k]; l++)
        unroll<P>([&](auto p) PSI_LAMBDA { __builtin_prefetch(ahead.at[k][p] + b * ahead.step[k] + l * 64, 0, 2); });
    });
    unroll<T::HALVES>([&](auto h) PSI_LAMBDA {
      constexpr int GROUPS = 8 / T::HALVES, FIRST = h * GROUPS;
      vi sum[P][R * A];
      unroll<R * A>([&](auto r) PSI_LAMBDA {
        vi start = set1i(x[r][b].start[h]);
        unroll<P>([&](auto p) PSI_LAMBDA { sum[p][r] = start; });
      });
      if constexpr (T::IN_WORDS > 1) {
        unroll<GROUPS / T::IN_WORDS>([&](auto k) PSI_LAMBDA {
          vi words[P][R * A];
          unroll<T::IN_WORDS>([&](auto j) PSI_LAMBDA {
            constexpr int G = FIRST + k * T::IN_WORDS + j;
            unroll<P>([&](auto p) PSI_LAMBDA {
              auto codes = loadb(sources[p].codes + b * 512 + 64 * G);
              unroll<R * A>([&](auto r) PSI_LAMBDA {
                auto products = word_products(codes, four_inputs(x[r][b], G));
                if constexpr (j == 0) words[p][r] = products;
                else words[p][r] = add_words(words[p][r], products);
              });
            });
          });
          unroll<P>([&](auto p) PSI_LAMBDA {
            unroll<R * A>([&](auto r) PSI_LAMBDA { sum[p][r] = add_word_pairs(sum[p][r], words[p][r]); });
          });
        });
      } else {
        unroll<GROUPS>([&](auto j) PSI_LAMBDA {
          constexpr int G = FIRST + j;
          vb codes[P];
          unroll<P>([&](auto p) PSI_LAMBDA {
            codes[p] = loadb(sources[p].codes + b * 512 + 64 * G);
            if constexpr (as_signed<T>) codes[p] = xorb(codes[p], set1b(128));
          });
          unroll<R * A>([&](auto r) PSI_LAMBDA {
            vi in = four_inputs(x[r][b], G);
            unroll<P>([&](auto p) PSI_LAMBDA { sum[p][r] = dot<T>(sum[p][r], codes[p], in); });
          });
        });
      }
      unroll<P>([&](auto p) PSI_LAMBDA { add_scaled<T, R, A>(total[p], sum[p], sources[p], b, h, x); });
    });
  }
  unroll<R>([&](auto r) PSI_LAMBDA { unroll<P>([&](auto p) PSI_LAMBDA { store(acc + (r * P + p) * 16, total[p][r]); }); });
}

/* The same sums with codes expanded in registers, panel after panel within a block. */
template <class S, int P, int R, int A>
static void direct_tile(const S* sources, i64 count, const InputBlock* const* x, float* acc) {
  typedef typename S::T T;
  vf total[P][R];
  unroll<R>([&](auto r) PSI_LAMBDA { unroll<P>([&](auto p) PSI_LAMBDA { total[p][r] = load(acc + (r * P + p) * 16); }); });
  for (i64 b = 0; b < count; b++) {
    unroll<P>([&](auto p) PSI_LAMBDA {
      vb w[8];
      S::codes_of(sources[p], b, w);
      if constexpr (as_signed<T>) unroll<8>([&](auto g) PSI_LAMBDA { w[g] = xorb(w[g], set1b(128)); });
      unroll<T::HALVES>([&](auto h) PSI_LAMBDA {
        constexpr int GROUPS = 8 / T::HALVES, FIRST = h * GROUPS;
        vi sum[R * A];
        unroll<R * A>([&](auto r) PSI_LAMBDA { sum[r] = set1i(x[r][b].start[h]); });
        unroll<GROUPS>([&](auto j) PSI_LAMBDA {
          unroll<R * A>([&](auto r) PSI_LAMBDA { sum[r] = dot<T>(sum[r], w[FIRST + j], four_inputs(x[r][b], FIRST + j)); });
        });
        add_scaled<T, R, A>(total[p], sum, sources[p], b, h, x);
      });
    });
  }
  unroll<R>([&](auto r) PSI_LAMBDA { unroll<P>([&](auto p) PSI_LAMBDA { store(acc + (r * P + p) * 16, total[p][r]); }); });
}

/* The tiles with R from 1 to MAX_R chosen at run time. */
template <class S, int P, int A, int MAX_R>
static void tile_rows(const S* sources, i64 count, const InputBlock* const* x, float* acc, const Ahead& ahead, int rows) {
  if (rows == MAX_R) return tile<S, P, MAX_R, A>(sources, count, x, acc, ahead);
  if constexpr (MAX_R > 1) tile_rows<S, P, A, MAX_R - 1>(sources, count, x, acc, ahead, rows);
}
template <class S, int P, int A, int MAX_R>
static void direct_tile_rows(const S* sources, i64 count, const InputBlock* const* x, float* acc, int rows) {
  if (rows == MAX_R) return direct_tile<S, P, MAX_R, A>(sources, count, x, acc);
  if constexpr (MAX_R > 1) direct_tile_rows<S, P, A, MAX_R - 1>(sources, count, x, acc, rows);
}

/* ---- tasks ---- */

/* Up to direct_rows() rows by P panels, read side by side: several streams from memory. */
template <class T, int P, int A>
static void few_rows(const ProductTask& t, i64 size, i64 panel) {
  constexpr int ROWS = direct_rows<T, A>(), MOST = P == 4 && (T::MINS || T::HALVES == 2) && ROWS * A > 2 ? 2 / A : ROWS;
  const i64 blocks = t.columns / 32;
  alignas(64) float acc[ROWS * P * 16] = {};
  for (i64 first = 0; first < blocks; first += PIECE) {
    const i64 count = blocks - first < PIECE ? blocks - first : PIECE;
    const InputBlock* x[ROWS * A] = {};
    for (i64 i = 0; i < t.rows * A; i++) x[i] = t.in + input_place(t.input_rows * A, blocks, input_of(t, i / A) * A + i % A, first);
    auto panels = [&](int p) PSI_LAMBDA { return Direct<T>{t.panels + (panel + p) * size, blocks, first}; };
    if constexpr (T::MINS && T::COLUMNS == 256) {
      alignas(64) float scales[P][PIECE * T::HALVES * 16], mins[P][PIECE * T::HALVES * 16];
      Scaled<T> sources[P];
      for (int p = 0; p < P; p++) {
        sources[p] = {panels(p), scales[p], mins[p]};
        expand_scales<T>(sources[p].panel.panel, blocks, first, count, scales[p], mins[p]);
      }
      direct_tile_rows<Scaled<T>, P, A, MOST>(sources, count, x, acc, (int)t.rows);
    } else {
      Direct<T> sources[P];
      for (int p = 0; p < P; p++) sources[p] = panels(p);
      direct_tile_rows<Direct<T>, P, A, MOST>(sources, count, x, acc, (int)t.rows);
    }
  }
  for (i64 i = 0; i < t.rows; i++)
    for (int p = 0; p < P; p++) write_row(t, i, panel + p, acc + (i * P + p) * 16);
}

/* Places in a thread's scratch memory. */
struct Workspace {
  float* acc;    /* [panels / TILE_PANELS][rows][TILE_PANELS * 16], the odd panel last */
  u8* codes;     /* [TILE_PANELS][PIECE * 512] */
  float* scales; /* [TILE_PANELS][PIECE * 2 * 16] */
  float* mins;
};
PSI_INLINE Workspace workspace(u8* scratch) {
  Workspace w;
  w.acc = (float*)scratch;
  w.codes = (u8*)(w.acc + ROW_CHUNK * PANEL_GROUP * 16);
  w.scales = (float*)(w.codes + TILE_PANELS * PIECE * 512);
  w.mins = w.scales + TILE_PANELS * PIECE * 32;
  static_assert(ROW_CHUNK * PANEL_GROUP * 64 + (PIECE * 512 + 2 * PIECE * 128) * TILE_PANELS <= THREAD_SCRATCH, "scratch too small");
  return w;
}

/* Expands blocks first..first+count of a panel; 8-bit codes stay where they are. */
template <class T>
static const u8* expand(const u8* panel, i64 blocks, i64 first, i64 count, u8* codes, float* scales, float* mins) {
  expand_scales<T>(panel, blocks, first, count, scales, mins);
  if constexpr (T::LOW == 8) return T::low(panel, first);
  for (i64 b = 0; b < count; b++) {
    vb w[8];
    T::codes(panel, blocks, first + b, w);
    unroll<8>([&](auto i) PSI_LAMBDA { storeb(codes + b * 512 + 64 * i, w[i]); });
  }
  return codes;
}

/* One piece of P panels for `rows` rows (at most ROW_CHUNK), whose input rows are listed in `inputs`; fetches the piece
   that comes next, at block next_first of next_panel. */
template <class T, int P, int A>
static void piece_rows(const ProductTask& t, const Workspace& w, i64 size, i64 panel, i64 first, i64 next_panel, i64 next_first, const i64* inputs, i64 rows, float* acc) {
  typedef Expanded<ShapeOf<T>> S;
  const i64 blocks = t.columns / 32, count = blocks - first < PIECE ? blocks - first : PIECE;
  S sources[P];
  for (int p = 0; p < P; p++) {
    float* scales = w.scales + p * PIECE * 32;
    float* mins = w.mins + p * PIECE * 32;
    sources[p] = {expand<T>(t.panels + (panel + p) * size, blocks, first, count, w.codes + p * PIECE * 512, scales, mins), scales, mins};
  }
  constexpr int MOST = TILE_ROWS / A > 0 ? TILE_ROWS / A : 1;
  const i64 tiles = (rows + MOST - 1) / MOST, height = rows / tiles, taller = rows % tiles; /* nearly equal */
  const u8* next = t.panels + next_panel * size;
  for (int p = 0; p < P; p++) {
    const u8* record = T::record(next + p * size, blocks, next_first);
    for (i64 at = 0; at < count * 32 / T::COLUMNS * T::RECORD; at += 64) __builtin_prefetch(record + at, 0, 2);
  }
  const InputBlock* base = t.in + first * t.input_rows * A;
  for (i64 i = 0, done = 0; i < rows; done++) {
    const int n = (int)(height + (done < taller));
    const InputBlock* x[MOST * A] = {};
    for (int r = 0; r < n * A; r++) x[r] = base + (inputs[i + r / A] * A + r % A) * count;
    const i64 low = T::LOW * done / tiles, high = T::HIGH * done / tiles; /* lines of a block that earlier tiles fetch */
    Ahead ahead = {{}, {64 * T::LOW, 64 * T::HIGH}, {T::LOW * (done + 1) / tiles - low, T::HIGH * (done + 1) / tiles - high}};
    for (int p = 0; p < P; p++) {
      ahead.at[0][p] = T::low(next + p * size, next_first) + low * 64;
      ahead.at[1][p] = T::high(next + p * size, blocks, next_first) + high * 64;
    }
    tile_rows<S, P, A, MOST>(sources, count, x, acc + i * P * 16, ahead, n);
    i += n;
  }
}

/* All pieces of at most PANEL_GROUP panels for at most ROW_CHUNK rows: a piece of the inputs serves every panel before
   the next piece, so inputs and accumulators stay in the second-level cache whatever the number of columns. */
template <class T, int A>
static void many_rows(const ProductTask& t, i64 size, i64 panel, i64 panels, i64 from, i64 rows) {
  Workspace w = workspace(t.scratch);
  const i64 paired = panels / TILE_PANELS * TILE_PANELS;
  i64 inputs[ROW_CHUNK];
  for (i64 i = 0; i < rows; i++) inputs[i] = input_of(t, from + i);
  memset(w.acc, 0, (size_t)(rows * panels * 64));
  for (i64 first = 0; first < t.columns / 32; first += PIECE) {
    auto piece = [&](i64 p, auto width) PSI_LAMBDA {
      i64 next = p + width, then = first;
      if (next >= panels && first + PIECE < t.columns / 32) next = 0, then = first + PIECE;
      else if (next >= panels) then = 0;
      piece_rows<T, width, A>(t, w, size, panel + p, first, panel + next, then, inputs, rows, w.acc + p * rows * 16);
    };
    for (i64 p = 0; p < paired; p += TILE_PANELS) piece(p, Index<TILE_PANELS>{});
    for (i64 p = paired; p < panels; p++) piece(p, Index<1>{});
  }
  for (i64 p = 0; p < panels; p++) {
    const i64 width = p < paired ? TILE_PANELS : 1, lane = p % width;
    const float* acc = w.acc + (p - lane) * rows * 16 + lane * 16;
    for (i64 i = 0; i < rows; i++) write_row(t, from + i, panel + p, acc + i * width * 16);
  }
}

template <class T, int A>
static void block_product(const ProductTask& t, i64 size) {
  const i64 last = t.first_panel + t.panel_count;
  if (t.rows <= direct_rows<T, A>()) {
    i64 p = t.first_panel;
    constexpr bool small = !T::MINS && T::HALVES == 1;
    if (t.rows * A <= 2 || small)
      for (; p + DIRECT_PANELS <= last; p += DIRECT_PANELS) few_rows<T, DIRECT_PANELS, A>(t, size, p);
    /* with second terms or two scales a block, more rows leave registers for half the panels */
    constexpr int HALF = DIRECT_PANELS > 1 ? DIRECT_PANELS / 2 : 1;
    for (; p + HALF <= last; p += HALF) few_rows<T, HALF, A>(t, size, p);
    for (; p < last; p++) few_rows<T, 1, A>(t, size, p);
    return;
  }
  constexpr i64 CHUNK = ROW_CHUNK / A;
  for (i64 from = 0; from < t.rows; from += CHUNK) {
    const i64 rows = t.rows - from < CHUNK ? t.rows - from : CHUNK;
    for (i64 p = t.first_panel; p < last; p += PANEL_GROUP) {
      const i64 panels = last - p < PANEL_GROUP ? last - p : PANEL_GROUP;
      if (!tiled_rows<T, A>(t, size, p, panels, from, rows)) many_rows<T, A>(t, size, p, panels, from, rows);
    }
  }
}

void product(const ProductTask& t) {
  const i64 size = panel_bytes(*find_type(t.dtype), t.columns);
  const bool blocks = with_block_type(t.dtype, [&](auto type) {
    if (t.parts == 2) block_product<decltype(type), 2>(t, size);
    else block_product<decltype(type), 1>(t, size);
  });
  if (!blocks) float_product(t);
}

}  // namespace psi::PSI_ISA
