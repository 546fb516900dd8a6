/*
 * A tile of 64 positions for 16 rows, where a row is a (token, head): the arithmetic of attention.h. HEAD is head_dim
 * rounded up to a size that kernels exist for; what is beyond head_dim is zero.
 *
 * In shared memory a tile of keys, values or queries is [row][HEAD] of 16-bit numbers, its 16-byte pieces exchanged within
 * a row so that eight rows' pieces lie in different banks.
 */
#pragma once
#include "attention.h"
#include "cache.h"
#include "fp8.cuh"
#include "instructions.h"

namespace psi {

/* ---- numbers ---- */
__device__ __forceinline__ float saturated(float x) { return x > 65504.0f ? 65504.0f : x < -65504.0f ? -65504.0f : x; }

template <int OPERAND>
__device__ __forceinline__ u32 pack_operand(float low, float high) {
  if constexpr (OPERAND == OPERAND_BF16) return pack_bf16(low, high);
  else return pack_f16(saturated(low), saturated(high));
}
template <int OPERAND>
__device__ __forceinline__ void multiply(float* d, const u32* a, const u32* b) {
  if constexpr (OPERAND == OPERAND_BF16) mma_bf16(d, a, b);
  else mma_f16(d, a, b);
}

/* Byte of piece `piece` (8 numbers) of a row in shared memory. */
template <int HEAD>
__device__ __forceinline__ int piece_at(int row, int piece) {
  return (row * (HEAD / 8) + (piece ^ (HEAD % 64 == 0 ? row & 7 : row >> 1 & 3))) * 16;
}

/* ---- tokens ---- */
/* -1: the token is of no sequence and sees nothing. */
__device__ __forceinline__ i32 position_of(const Attention& a, i32 token) {
  return a.token_sequence[token] < 0 ? -1 : min(a.token_position[token], a.max_pages * a.page_size - 1);
}
__device__ __forceinline__ i32 lowest_of(const Attention& a, i32 position) {
  return a.window > 0 ? max(position - a.window + 1, 0) : 0;
}

/* Eight numbers of a row of q as four operand pairs. */
template <int OPERAND>
__device__ __forceinline__ uint4 query_piece(const float* q, bool aligned) {
  float x[8];
  if (aligned) {
    float4 low = *(const float4*)q, high = *(const float4*)(q + 4);
    x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w, x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
  } else {
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] = q[i];
  }
  return make_uint4(pack_operand<OPERAND>(x[0], x[1]), pack_operand<OPERAND>(x[2], x[3]), pack_operand<OPERAND>(x[4], x[5]),
                    pack_operand<OPERAND>(x[6], x[7]));
}

/* ---- from the cache to shared memory ---- */

/*
 * How THREADS threads stage tiles. place() looks the tile's pages up; load() then begins the copy of its keys or values.
 * Positions outside [low, high], or without a page, are staged as zeros. The caller commits, waits and has a barrier.
 */
template <int OPERAND, int HEAD, int THREADS>
struct TileLoader {
  static constexpr int PIECES = HEAD / 8;
  /* With enough threads a quarter of them takes 16 positions; all of which lie in one page. */
  static constexpr bool QUARTERS = THREADS >= 128;
  static constexpr int TEAM = QUARTERS ? THREADS / 4 : THREADS, UNITS = QUARTERS ? 1 : 4;
  static constexpr int TURNS = 16 * PIECES / TEAM;
  static_assert(16 * PIECES % TEAM == 0, "threads that divide 16 rows");

  i64 page[UNITS] = {}; /* byte offset; negative: no page */
  i32 row[UNITS] = {};  /* of the unit's first position among the page's [kv_heads][page_size] rows */
  i32 start = 0, low = 0, high = -1;

  __device__ __forceinline__ int first_unit(int thread) const { return QUARTERS ? thread / TEAM : 0; }

  __device__ __forceinline__ void place(const Attention& a, const i32* pages, i32 kv_head, i32 tile, i32 low_, i32 high_, int thread) {
    start = tile * ATTENTION_TILE, low = low_, high = high_;
    const i32 page_units = a.page_size / 16, first = tile * (ATTENTION_TILE / 16) + first_unit(thread);
    i32 number[UNITS], physical[UNITS];
    if (a.page_shift >= 0) {
#pragma unroll
      for (int u = 0; u < UNITS; u++) number[u] = (first + u) >> a.page_shift;
    } else {
#pragma unroll
      for (int u = 0; u < UNITS; u++) number[u] = (first + u) / page_units;
    }
    /* looked up without a branch, so that all are under way at once */
#pragma unroll
    for (int u = 0; u < UNITS; u++) physical[u] = pages[min(number[u], a.max_pages - 1)];
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
      const bool seen = (first + u) * 16 <= high && (first + u) * 16 + 15 >= low;
      page[u] = (seen ? physical[u] : -1) * a.page_bytes;
      row[u] = kv_head * a.page_size + (first + u - number[u] * page_units) * 16;
    }
  }

  __device__ __forceinline__ void load(const Attention& a, u8* shared, const u8* cache, int thread) const {
    const int member = QUARTERS ? thread % TEAM : thread;
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
      const int first_row = (first_unit(thread) + u) * 16;
      if constexpr (OPERAND == OPERAND_CONVERTED) {
        if (a.cache_type == F32) convert<F32>(a, shared, cache, u, first_row, member);
        else if (a.cache_type == FP8) convert<FP8>(a, shared, cache, u, first_row, member);
        else convert<Q8_0>(a, shared, cache, u, first_row, member);
      } else {
        const u8* rows = cache + page[u] + (i64)row[u] * a.head_dim * 2;
#pragma unroll(TURNS < 4 ? TURNS : 4)
        for (int n = 0; n < TURNS; n++) {
          const int i = member + n * TEAM, r = i / PIECES, piece = i % PIECES;
          const bool valid = holds(a, u, first_row + r, piece);
          copy_async16(shared + piece_at<HEAD>(first_row + r, piece), valid ? rows + (r * a.head_dim + piece * 8) * 2 : cache, valid);
        }
      }
    }
  }

 private:
  __device__ __forceinline__ bool holds(const Attention& a, int u, int tile_row, int piece) const {
    return page[u] >= 0 && (u32)(start + tile_row - low) <= (u32)(high - low) && piece * 8 < a.head_dim;
  }

  /* Through registers, several pieces under way at a time. */
  template <i32 TYPE>
  __device__ __forceinline__ void convert(const Attention& a, u8* shared, const u8* cache, int u, int first_row, int member) const {
    constexpr int AT_ONCE = TURNS % 4 == 0 ? 4 : TURNS % 3 == 0 ? 3 : 2;
    static_assert(TURNS % AT_ONCE == 0, "whole batches");
    const u8* base = cache + page[u];
    for (int first = 0; first < TURNS; first += AT_ONCE) {
      uint4 raw[AT_ONCE], more[AT_ONCE];
      u32 scale[AT_ONCE];
#pragma unroll
      for (int n = 0; n < AT_ONCE; n++) {
        const int i = member + (first + n) * TEAM, r = i / PIECES, piece = i % PIECES;
        const i64 at = (i64)(row[u] + r) * a.head_dim + piece * 8;
        raw[n] = more[n] = make_uint4(0, 0, 0, 0), scale[n] = 0;
        if (!holds(a, u, first_row + r, piece)) continue;
        if constexpr (TYPE == F32) {
          raw[n] = *(const uint4*)(base + at * 4);
          more[n] = *(const uint4*)(base + at * 4 + 16);
        } else {
          const uint2 codes = *(const uint2*)(base + at);
          raw[n].x = codes.x, raw[n].y = codes.y;
          if constexpr (TYPE == Q8_0) scale[n] = *(const u16*)(base + a.scales_at + at / 32 * 2);
        }
      }
#pragma unroll
      for (int n = 0; n < AT_ONCE; n++) {
        const int i = member + (first + n) * TEAM, r = i / PIECES, piece = i % PIECES;
        u8* place = shared + piece_at<HEAD>(first_row + r, piece);
        if constexpr (TYPE == FP8) {
          uint4 halves;
          e4m3_to_f16(raw[n].x, halves.x, halves.y);
          e4m3_to_f16(raw[n].y, halves.z, halves.w);
          *(uint4*)place = halves;
          continue;
        }
        float x[8];
        if constexpr (TYPE == F32) {
          const u32 bits[8] = {raw[n].x, raw[n].y, raw[n].z, raw[n].w, more[n].x, more[n].y, more[n].z, more[n].w};
#pragma unroll
          for (int k = 0; k < 8; k++) x[k] = __uint_as_float(bits[k]);
        } else {
          const float d = f16_value(scale[n]);
#pragma unroll
          for (int k = 0; k < 8; k++) x[k] = (float)(i8)((k < 4 ? raw[n].x : raw[n].y) >> k % 4 * 8) * d;
        }
        *(uint4*)place = make_uint4(pack_operand<OPERAND>(x[0], x[1]), pack_operand<OPERAND>(x[2], x[3]), pack_operand<OPERAND>(x[4], x[5]),
                                    pack_operand<OPERAND>(x[6], x[7]));
      }
    }
  }
};

/* ---- scores ---- */

/* Sixteen rows of queries as A fragments: in registers, or read from shared memory again for each tile. */
template <int HEAD>
struct QueriesHeld {
  u32 a[HEAD / 16][4];
  __device__ __forceinline__ void fragment(int k, u32* out) const {
#pragma unroll
    for (int i = 0; i < 4; i++) out[i] = a[k][i];
  }
};
template <int HEAD>
struct QueriesShared {
  const u8* rows; /* of the tile of queries; the warp's begin at row `first` */
  int first, lane;
  __device__ __forceinline__ void fragment(int k, u32* out) const {
    load_matrix_x4(out, rows + piece_at<HEAD>(first + lane / 8 % 2 * 8 + lane % 8, 2 * k + lane / 16));
  }
};

/* Raw products of 16 rows with the 64 keys of a tile, head elements ascending; s[n] is the D fragment of keys 8n ... 8n+7. */
template <int OPERAND, int HEAD, class Queries>
__device__ __forceinline__ void score_tile(float (&s)[8][4], const Queries& queries, const u8* keys, int lane) {
#pragma unroll
  for (int n = 0; n < 8; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) s[n][i] = 0;
#pragma unroll
  for (int k = 0; k < HEAD / 16; k++) {
    u32 a[4];
    queries.fragment(k, a);
#pragma unroll
    for (int n = 0; n < 4; n++) {
      u32 b[4];
      load_matrix_x4(b, keys + piece_at<HEAD>(n * 16 + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2));
      multiply<OPERAND>(s[2 * n], a, b);
      multiply<OPERAND>(s[2 * n + 1], a, b + 2);
    }
  }
}

/* Products of the lane's row `half` to scores in units of log2. */
__device__ __forceinline__ void scale_scores(const Attention& a, float (&s)[8][4], int half) {
  const float factor = a.factor, cap = a.cap;
  const auto each = [&](auto f) {
#pragma unroll
    for (int n = 0; n < 8; n++)
#pragma unroll
      for (int j = 0; j < 2; j++) s[n][half * 2 + j] = f(__fmul_rn(s[n][half * 2 + j], factor));
  };
  if (cap == 0) each([](float x) { return x; });
  else each([=](float x) { return __fmul_rn(cap, 1.0f - __fdividef(2.0f, exp2_fast(x) + 1.0f)); });
}

/* Largest of what the four lanes of a row hold, and their sum in one fixed tree. */
__device__ __forceinline__ float row_max(float v) {
  v = fmaxf(v, __shfl_xor_sync(~0u, v, 1));
  return fmaxf(v, __shfl_xor_sync(~0u, v, 2));
}
__device__ __forceinline__ float row_sum(float v) {
  v = __fadd_rn(v, __shfl_xor_sync(~0u, v, 1));
  return __fadd_rn(v, __shfl_xor_sync(~0u, v, 2));
}

/*
 * Products to weights 2^(score - m), with m and l, for the lane's rows lane/4 and, where `both`, lane/4 + 8. A row sees
 * positions first[i] ... last[i]; `whole`: all rows see the whole tile. m = -inf: nothing is seen, or nothing but -inf.
 */
__device__ __forceinline__ void soften(const Attention& a, float (&s)[8][4], const i32* first, const i32* last, i32 start, bool whole,
                                       bool both, float* m, float* l, int lane) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    m[half] = -INFINITY, l[half] = 0;
    if (half == 1 && !both) break;
    scale_scores(a, s, half);
    if (!whole) {
#pragma unroll
      for (int n = 0; n < 8; n++)
#pragma unroll
        for (int j = 0; j < 2; j++) {
          const i32 position = start + n * 8 + lane % 4 * 2 + j;
          if (position < first[half] || position > last[half]) s[n][half * 2 + j] = -INFINITY;
        }
    }
    float top = -INFINITY;
#pragma unroll
    for (int n = 0; n < 8; n++)
#pragma unroll
      for (int j = 0; j < 2; j++) top = fmaxf(top, s[n][half * 2 + j]);
    m[half] = top = row_max(top);
    if (top == -INFINITY) top = 0;
    float sum = 0;
#pragma unroll
    for (int n = 0; n < 8; n++)
#pragma unroll
      for (int j = 0; j < 2; j++) {
        float& x = s[n][half * 2 + j];
        x = exp2_fast(x - top);
        sum = __fadd_rn(sum, x);
      }
    l[half] = row_sum(sum);
  }
}

/* The weights as A fragments, 16 positions each. */
template <int OPERAND>
__device__ __forceinline__ void pack_weights(u32 (&w)[4][4], const float (&s)[8][4]) {
#pragma unroll
  for (int k = 0; k < 4; k++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float low = s[2 * k + i / 2][i % 2 * 2], high = s[2 * k + i / 2][i % 2 * 2 + 1];
      w[k][i] = OPERAND == OPERAND_BF16 ? pack_bf16(low, high) : pack_f16(low, high);
    }
}

/* Which values count: all, or those at positions first ... last, the others being taken for zero. */
struct AllValues {
  __device__ __forceinline__ u32 pair(int) const { return ~0u; }
};
struct ValuesBetween {
  i32 first, last, start;
  __device__ __forceinline__ u32 pair(int place) const {
    const i32 p = start + place;
    return (p >= first && p <= last ? 0xffffu : 0) | (p + 1 >= first && p + 1 <= last ? 0xffff0000u : 0);
  }
};

/* Weighted sum of a tile's values, elements d ... d+31 of the head, positions ascending. */
template <int OPERAND, int HEAD, class Counted>
__device__ __forceinline__ void weigh(float (&acc)[4][4], const u32 (&w)[4][4], const u8* values, int d, int lane, const Counted& counted) {
#pragma unroll
  for (int n = 0; n < 4; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) acc[n][i] = 0;
#pragma unroll
  for (int k = 0; k < 4; k++)
#pragma unroll
    for (int pair = 0; pair < 2; pair++) {
      u32 b[4];
      load_matrix_x4_transposed(b, values + piece_at<HEAD>(k * 16 + lane / 8 % 2 * 8 + lane % 8, d / 8 + pair * 2 + lane / 16));
#pragma unroll
      for (int i = 0; i < 4; i++) b[i] &= counted.pair(k * 16 + i % 2 * 8 + lane % 4 * 2);
      multiply<OPERAND>(acc[2 * pair], w[k], b);
      multiply<OPERAND>(acc[2 * pair + 1], w[k], b + 2);
    }
}

#if defined(PSI_STANDIN)
#define PSI_OUT_OF_LINE __attribute__((noinline))
#else
#define PSI_OUT_OF_LINE __noinline__
#endif

/* weigh() for each row by itself, over the values that it sees; first and last are those of the lane's two rows. */
template <int OPERAND, int HEAD>
__device__ PSI_OUT_OF_LINE void weigh_row_by_row(float (&acc)[4][4], const u32 (&w)[4][4], const u8* values, int d, int lane, int2 first,
                                                 int2 last, i32 start) {
#pragma unroll 1
  for (int row = 0; row < 16; row++) {
    const ValuesBetween seen = {__shfl_sync(~0u, row < 8 ? first.x : first.y, row % 8 * 4), __shfl_sync(~0u, row < 8 ? last.x : last.y, row % 8 * 4),
                                start};
    float own[4][4];
    weigh<OPERAND, HEAD>(own, w, values, d, lane, seen);
    if (lane / 4 != row % 8) continue;
#pragma unroll
    for (int n = 0; n < 4; n++)
#pragma unroll
      for (int i = 0; i < 4; i++)
        if (i / 2 == row / 8) acc[n][i] = own[n][i];
  }
}

/*
 * A row gives positions that it does not see weight 0, and 0 times an infinite value is NaN; so rows that see but part of
 * a tile are summed again, one at a time, where that may have happened.
 */
template <int OPERAND, int HEAD>
__device__ __forceinline__ void repair(float (&acc)[4][4], const u32 (&w)[4][4], const u8* values, int d, int lane, const i32* first,
                                       const i32* last, i32 start) {
  bool finite = true;
#pragma unroll
  for (int n = 0; n < 4; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) finite = finite && fabsf(acc[n][i]) < INFINITY;
  if (__all_sync(~0u, finite)) return;
  float sums[4][4]; /* copies, so that acc and w stay in registers */
  u32 weights[4][4];
#pragma unroll
  for (int n = 0; n < 4; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) weights[n][i] = w[n][i];
  weigh_row_by_row<OPERAND, HEAD>(sums, weights, values, d, lane, int2{first[0], first[1]}, int2{last[0], last[1]}, start);
#pragma unroll
  for (int n = 0; n < 4; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) acc[n][i] = sums[n][i];
}

/* ---- the fold ---- */

/* Takes m of the next tile into M; `old` and `now` are what the sums so far and the tile's are to be multiplied by. */
__device__ __forceinline__ void fold_factors(float& M, float m, float& old, float& now) {
  const float top = fmaxf(M, m), base = top == -INFINITY ? 0.0f : top;
  old = exp2_fast(M - base), now = exp2_fast(m - base);
  M = top;
}
__device__ __forceinline__ float folded(float total, float old, float part, float now) { return fmaf(total, old, __fmul_rn(part, now)); }

/* Folds the sink in; returns what the weighted sum is to be multiplied by. */
__device__ __forceinline__ float finish(const Attention& a, i32 head, float M, float L) {
  float factor = 1;
  if (a.sinks) {
    const float sink = __fmul_rn(a.sinks[head], 1.44269504088896341f), top = fmaxf(M, sink), base = top == -INFINITY ? 0.0f : top;
    factor = exp2_fast(M - base);
    L = fmaf(L, factor, exp2_fast(sink - base));
  }
  return L == 0 ? 0.0f : factor / L;
}

}  // namespace psi
