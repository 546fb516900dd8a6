/*
 * Rows of a prompt by packed panels in AMX's tiles (formula: product.h; layout: common/panel.h; namespace psi::PSI_ISA).
 *
 * A tile product gives the whole sums of 16 rows by 16 outputs over one block of 32 columns. They go through memory to the
 * vectors, which scale and add them up as product.cpp does for any other row, so that the bits are the same. What is added
 * up is one block's after the other's: while the vectors work on block b, block b+1 is on its way to memory and the tile
 * unit multiplies block b+2. Per piece of 512 columns the panels' codes are expanded to signed bytes, code - BIAS, so that no
 * sum has to be corrected, and rows that do not lie one after the other are brought together.
 */
#pragma once
#include "../common/panel.h"
#include "../common/pool.h"
#include "../common/tiles.h"
#include "product_rows.h"

namespace psi::PSI_ISA {

#ifdef __AMX_INT8__

constexpr int TILE = 16;        /* rows, and outputs, of a tile of sums */
constexpr i64 LEAST_TILED = 32; /* rows: with fewer the codes are expanded for too little, as measured */
constexpr int RING = 4;         /* blocks whose sums are in memory */

/* Places in a thread's scratch memory. */
struct TiledWorkspace {
  float* acc;         /* [PANEL_GROUP][ROW_CHUNK][16] */
  InputBlock* inputs; /* [ROW_CHUNK][PIECE] */
  i8* codes;          /* [PANEL_GROUP][PIECE * 512] */
  float* scales;      /* [PANEL_GROUP][PIECE * 16] */
  float* mins;
};
PSI_INLINE TiledWorkspace tiled_workspace(u8* scratch) {
  TiledWorkspace w;
  w.acc = (float*)scratch;
  w.inputs = (InputBlock*)(w.acc + ROW_CHUNK * PANEL_GROUP * 16);
  w.codes = (i8*)(w.inputs + ROW_CHUNK * PIECE);
  w.scales = (float*)(w.codes + PANEL_GROUP * PIECE * 512);
  w.mins = w.scales + PANEL_GROUP * PIECE * 16;
  static_assert(ROW_CHUNK * (PANEL_GROUP + PIECE) * 64 + PANEL_GROUP * PIECE * (512 + 128) <= THREAD_SCRATCH, "scratch too small");
  return w;
}

/* Blocks first..first+count of a panel as signed bytes. */
template <class T>
static void signed_codes(i8* codes, const u8* panel, i64 blocks, i64 first, i64 count) {
  const vb bias = set1b(T::BIAS);
  for (i64 b = 0; b < count; b++) {
    vb w[8];
    T::codes(panel, blocks, first + b, w);
    unroll<8>([&](auto i) PSI_LAMBDA { storeb(codes + b * 512 + 64 * i, _mm512_sub_epi8(w[i], bias)); });
  }
}

/* Cache lines that a product fetches for later, one after the other, a little beside each block. */
struct Fetch {
  const u8* at;
  i64 lines;
};

/* acc[r][16 outputs] over the blocks of a piece for 16 rows, or 8 of two parts, of which row or part r is x[r * count] and on.
   WHOLE: count is PIECE. */
template <bool MINS, bool WHOLE, int A>
static void tile_product(const InputBlock* x, const i8* codes, const float* scales, const float* mins, i64 blocks, float* acc, const Fetch* fetch) {
  const i64 count = WHOLE ? PIECE : blocks, stride = count * (i64)sizeof(InputBlock);
  alignas(64) i32 sums[RING][TILE * TILE];
  constexpr int R = TILE / A;
  vf total[R];
  unroll<R>([&](auto r) PSI_LAMBDA { total[r] = load(acc + r * 16); });
  auto add_block = [&](i64 b) PSI_LAMBDA {
    const InputBlock* in = x + b;
    const i32* sum = sums[b % RING];
    const vf scale = load(scales + b * 16);
    unroll<R>([&](auto r) PSI_LAMBDA {
      vi whole = loadi(sum + (r * A + A - 1) * TILE);
      if constexpr (A == 2) whole = addi(shli<8>(loadi(sum + r * A * TILE)), whole);
      total[r] = fma(cvt(whole) * scale, set1(in[(r * A + A - 1) * count].d), total[r]);
    });
    if constexpr (MINS) {
      const vf min = load(mins + b * 16);
      unroll<R>([&](auto r) PSI_LAMBDA { total[r] = fma(min, set1(in[(r * A + A - 1) * count].dsum[0]), total[r]); });
    }
    unroll<2>([&](auto k) PSI_LAMBDA {
      for (i64 l = b; l < fetch[k].lines; l += count) __builtin_prefetch(fetch[k].at + l * 64, 0, 2);
    });
  };
  auto even = [&](i64 b) PSI_LAMBDA {
    _tile_loadd(A0, x[b].q, stride);
    _tile_loadd(B0, codes + b * 512, 64);
    _tile_zero(C0);
    _tile_dpbssd(C0, A0, B0);
  };
  auto odd = [&](i64 b) PSI_LAMBDA {
    _tile_loadd(A1, x[b].q, stride);
    _tile_loadd(B1, codes + b * 512, 64);
    _tile_zero(C1);
    _tile_dpbssd(C1, A1, B1);
  };
  auto keep_even = [&](i64 b) PSI_LAMBDA { _tile_stored(C0, sums[b % RING], 64); };
  auto keep_odd = [&](i64 b) PSI_LAMBDA { _tile_stored(C1, sums[b % RING], 64); };
  even(0);
  if (count > 1) odd(1);
  keep_even(0);
  i64 b = 0;
  for (; b + 3 < count; b += 2) {
    even(b + 2);
    keep_odd(b + 1);
    add_block(b);
    odd(b + 3);
    keep_even(b + 2);
    add_block(b + 1);
  }
  /* one to three blocks are left, of which two have been multiplied and one has been kept */
  if (b + 1 < count) keep_odd(b + 1);
  if (b + 2 < count) {
    even(b + 2);
    keep_even(b + 2);
  }
  for (; b < count; b++) add_block(b);
  unroll<R>([&](auto r) PSI_LAMBDA { store(acc + r * 16, total[r]); });
}

/* All pieces of at most PANEL_GROUP panels for at most ROW_CHUNK / A rows, from row `from` of the task. False, and nothing is
   done, for few rows, and for types with two scales in a block: each would want a product that costs as much as a whole one. */
template <class T, int A>
static bool tiled_rows(const ProductTask& t, i64 size, i64 panel, i64 panels, i64 from, i64 rows) {
  if (rows * A < LEAST_TILED || T::HALVES == 2) return false;
  constexpr i64 R = TILE / A; /* rows of a tile */
  const TiledWorkspace w = tiled_workspace(t.scratch);
  const i64 blocks = t.columns / 32, tiles = (rows + R - 1) / R, padded = tiles * R;
  const i64 whole = t.slots ? 0 : rows / R * R; /* rows that lie one after the other, in whole tiles */
  memset(w.acc, 0, (size_t)(padded * panels * 64));
  const Tiles unit;
  for (i64 first = 0; first < blocks; first += PIECE) {
    const i64 count = blocks - first < PIECE ? blocks - first : PIECE;
    const InputBlock* in = t.in + first * t.input_rows * A;
    for (i64 i = whole; i < padded; i++) {
      const size_t bytes = (size_t)(count * A) * sizeof(InputBlock);
      if (i < rows) memcpy(w.inputs + i * A * count, in + input_of(t, from + i) * A * count, bytes);
      else memset(w.inputs + i * A * count, 0, bytes);
    }
    in += (t.first_row + from) * A * count;
    for (i64 p = 0; p < panels; p++) {
      const u8* source = t.panels + (panel + p) * size;
      signed_codes<T>(w.codes + p * PIECE * 512, source, blocks, first, count);
      expand_scales<T>(source, blocks, first, count, w.scales + p * PIECE * 16, w.mins + p * PIECE * 16);
    }
    memory_barrier();
    const i64 then = first + PIECE < blocks ? first + PIECE : first; /* the piece that is fetched */
    for (i64 i = 0; i < tiles; i++)
      for (i64 p = 0; p < panels; p++) {
        const u8* next = t.panels + (panel + p) * size;
        auto share = [&](const u8* plane, int bits) PSI_LAMBDA { /* of the lines of a plane, those that this tile fetches */
          const i64 lines = count * bits, from_line = lines * i / tiles;
          return Fetch{plane + from_line * 64, lines * (i + 1) / tiles - from_line};
        };
        const Fetch fetch[2] = {share(T::low(next, then), T::LOW), share(T::high(next, blocks, then), T::HIGH)};
        auto multiply = count == PIECE ? tile_product<T::MINS, true, A> : tile_product<T::MINS, false, A>;
        multiply((i * R < whole ? in : w.inputs) + i * TILE * count, w.codes + p * PIECE * 512, w.scales + p * PIECE * 16, w.mins + p * PIECE * 16, count,
                 w.acc + (p * padded + i * R) * 16, fetch);
      }
  }
  for (i64 i = 0; i < rows; i++)
    for (i64 p = 0; p < panels; p++) write_row(t, from + i, panel + p, w.acc + (p * padded + i) * 16);
  return true;
}

#else

template <class T, int A>
PSI_INLINE bool tiled_rows(const ProductTask&, i64, i64, i64, i64, i64) { return false; }

#endif

}  // namespace psi::PSI_ISA
