/*
 * AMX's tiles as integer products use them (namespace psi::PSI_ISA; empty on levels without them).
 *
 * C0..C3 are 16 x 16 sums of i32; A0, A1 are 16 rows of 32 signed bytes; B0, B1 are 8 rows of 64 signed bytes, which is how
 * a panel (panel.h) has the codes of 32 columns by 16 outputs. dp(C, A, B) adds the 16 x 16 products over those columns,
 * exactly.
 */
#pragma once
#include "isa.h"

#ifdef __AMX_INT8__
#include <immintrin.h>

namespace psi::PSI_ISA {

#define C0 0
#define C1 1
#define C2 2
#define C3 3
#define A0 4
#define A1 5
#define B0 6
#define B1 7

struct TileShapes {
  u8 palette, start_row, unused[14];
  u16 row_bytes[16];
  u8 rows[16];
};
static_assert(sizeof(TileShapes) == 64, "the instruction reads 64 bytes");
constexpr TileShapes SHAPES = {1, 0, {}, {64, 64, 64, 64, 32, 32, 64, 64}, {16, 16, 16, 16, 16, 16, 8, 8}};

/* The tiles of the calling thread while this lives; afterwards they are empty, so that a switch of threads need not save them. */
struct Tiles {
  Tiles() { _tile_loadconfig(&SHAPES); }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
};

/* Compilers do not see that loading a tile reads memory: what was stored before this is there. */
PSI_INLINE void memory_barrier() { asm volatile("" ::: "memory"); }

}  // namespace psi::PSI_ISA
#endif
