/*
 * The form of up to 8 slots where a warp has four units or less of a tile: a block holds all of its PAIRS of tiles in registers, asked
 * for at once, so that blocks are few enough to be there all at the same time. The sums of moe.cuh's other forms.
 */
#pragma once
#include "moe.cuh"

namespace psi {

constexpr int MOE_HELD_UNITS = 4, MOE_HELD_SLOTS = 8;

/* Whether four units of two tiles are few enough registers. */
template <class W>
constexpr bool moe_holds() { return W::PARTS == 1 && sizeof(typename W::Raw) <= 28; }

/* UNITS: at most as many of a tile are a warp's. */
template <class W, int PAIRS, int UNITS, bool GATED>
__global__ void __launch_bounds__(MOE_THREADS, 3) moe_held_kernel(const __grid_constant__ MoeArguments p, const __grid_constant__ MoeShape s) {
  static_assert(!GATED || PAIRS == 1, "a tile of the gate and one of up");
  constexpr i32 TILES = 2 * PAIRS;
  PSI_DYNAMIC_SHARED(shared);
  __shared__ MoeSlots own;
  const bool lets_late = GATED || p.lets_late; /* what comes after a gated one may rely on expert_ids */
  if (!lets_late) let_next_start();
  const i32 thread = threadIdx.x, lane = thread % 32, warp = thread / 32, row_bytes = moe_row_bytes(s.units);
  const i32 first = min(warp * s.segment_units, s.units), end = min(first + s.segment_units, s.units);
  const auto tile_of = [&](i32 t) { return GATED ? (i32)blockIdx.x + t * (s.tiles / 2) : (i32)blockIdx.x * TILES + t; };
  if (!p.ids_ready) {
    wait_for_inputs();
    if (lets_late) let_next_start();
  }
  /* of one row all slots make use: it is asked for before the weights, behind which it would come last */
  constexpr int LOADS = PSI_DIVIDE_UP(UNITS, 2);
  const bool one = GATED && !p.ids_ready && p.slots == p.slots_per_input;
  float4 x[LOADS];
  const auto column = [&](int i) { return first * 64 + lane * 4 + 128 * i; };
#pragma unroll
  for (int i = 0; i < LOADS; i++) {
    x[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (one && column(i) < min(end * 64, p.columns)) x[i] = *(const float4*)(p.x + column(i));
  }
  const MoeGroup group = find_moe_group(p, own);
  if (group.count == 0) {
    wait_for_inputs();
    return;
  }
  const u8* weights = p.w + (i64)group.expert * s.tiles * s.tile_bytes;
  typename W::Raw raw[UNITS][TILES];
#pragma unroll
  for (int d = 0; d < UNITS; d++)
    if (first + d < end)
#pragma unroll
      for (int t = 0; t < TILES; t++) W::load(raw[d][t], weights + min(tile_of(t), s.tiles - 1) * s.tile_bytes, s.units, first + d, lane);
  /* of the results that this thread finishes: both tiles of a gated pair, or one of all */
  const i32 row = thread % 16, own_tile = GATED ? 0 : thread / 16 % TILES, each = GATED ? 16 : 16 * TILES;
  float bias[2] = {};
#pragma unroll
  for (int m = 0; m < (GATED ? 2 : 1); m++) {
    const i32 output = tile_of(own_tile + m) * 16 + row;
    if (p.bias && output < p.outputs) bias[m] = p.bias[(i64)group.expert * p.outputs + output];
  }
  if (p.ids_ready) {
    wait_for_inputs();
    if (lets_late) let_next_start();
  }
  const i32 rows = min(group.count, s.columns_at_once), stride = 16 * p.slots; /* stride: floats of a segment of a tile */
  float* sums = (float*)(shared + s.columns_at_once * row_bytes); /* [tile][segment][slot][16] */
  const auto total = [&](i32 t, i32 slot) {
    const float* from = sums + t * MOE_SEGMENTS * stride + slot * 16 + row;
    float part[MOE_SEGMENTS];
#pragma unroll
    for (int k = 0; k < MOE_SEGMENTS; k++) part[k] = k < s.segments ? from[k * stride] : 0.0f;
    float all = part[0];
#pragma unroll
    for (int k = 1; k < MOE_SEGMENTS; k++)
      if (k < s.segments) all += part[k];
    return all;
  };
  __syncthreads(); /* own is written */
  if (one) {
#pragma unroll
    for (int i = 0; i < LOADS; i++)
      if (column(i) < end * 64) store_rounded<W::PARTS>(shared, column(i), x[i]);
  } else {
    round_moe_rows<W>(p, shared, row_bytes, own.row, rows, first, end);
  }
  __syncwarp(); /* a warp reads only what it wrote */

  const u8* fragments = shared + min(lane % 8, rows - 1) * row_bytes + lane / 8 * 16; /* as in moe.cuh */
#pragma unroll
  for (int pair = 0; pair < PAIRS; pair++) {
    float sum[2][4] = {};
#pragma unroll
    for (int d = 0; d < UNITS; d++) {
      if (first + d >= end) break;
      const typename W::Raw* held = raw[d] + 2 * pair;
      bool wide = false;
      if constexpr (W::ID == MXFP4) wide = __any_sync(~0u, W::is_wide(held[0]) || W::is_wide(held[1]));
#pragma unroll
      for (int half = 0; half < 2; half++) {
        u32 b[4];
        load_matrix_x4(b, fragments + (first + d) * 128 + half * 64);
#pragma unroll
        for (int step = 0; step < 2; step++)
#pragma unroll
          for (int m = 0; m < 2; m++) {
            u32 a[4];
            if constexpr (W::ID == MXFP4) W::fragment(held[m], 2 * half + step, a, wide);
            else W::fragment(held[m], 2 * half + step, a);
            mma_bf16(sum[m], a, b + 2 * step);
          }
      }
    }
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const i32 slot = lane % 4 * 2 + i % 2;
        if (slot < group.count) sums[((2 * pair + m) * MOE_SEGMENTS + warp) * stride + slot * 16 + lane / 4 + i / 2 * 8] = sum[m][i];
      }
  }
  __syncthreads();
  for (i32 slot = thread / each; slot < group.count; slot += MOE_THREADS / each) {
    float value = total(own_tile, slot);
    if (p.bias) value += bias[0];
    const i32 output = tile_of(own_tile) * 16 + row;
    if constexpr (GATED) {
      float up = total(1, slot);
      if (p.bias) up += bias[1];
      value = gated_activation(p.gate.kind, value, up, p.gate.alpha, p.gate.limit);
      p.y[(i64)own.slot[slot] * (p.outputs / 2) + output] = value;
    } else if (output < p.outputs) {
      p.y[(i64)own.slot[slot] * p.outputs + output] = value;
    }
  }
}

template <class W, int PAIRS, int UNITS, bool GATED>
i32 launch_moe_held_as(const char* op, const MoeArguments& p, const MoeShape& s) {
  const dim3 grid((unsigned)PSI_DIVIDE_UP(s.tiles, 2 * PAIRS), (unsigned)min(p.slots, p.experts));
  const size_t shared = (size_t)s.columns_at_once * moe_row_bytes(s.units) + (size_t)p.slots * 2 * PAIRS * MOE_SEGMENTS * 64;
  return launch(op, moe_held_kernel<W, PAIRS, UNITS, GATED>, grid, dim3(MOE_THREADS), shared, p, s);
}

/* taken: whether this form takes the product, of which moe_decode_kernel could. */
template <class W, bool GATED>
i32 launch_moe_held(const char* op, const MoeArguments& p, bool& taken) {
  const MoeShape s = moe_shape<W>(p, p.slots == p.slots_per_input ? 1 : p.slots); /* rows: all slots have one, or each its own */
  taken = p.slots <= MOE_HELD_SLOTS && s.segment_units <= MOE_HELD_UNITS;
  if (!taken) return PSI_OK;
  if constexpr (!GATED) {
    if (s.segment_units == 1) return launch_moe_held_as<W, 4, 1, false>(op, p, s);
    if (s.segment_units == 2) return launch_moe_held_as<W, 2, 2, false>(op, p, s);
  }
  return launch_moe_held_as<W, 1, MOE_HELD_UNITS, GATED>(op, p, s);
}

}  // namespace psi
