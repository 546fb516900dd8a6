/*
 * Products with the chosen experts' matrices: slot s = token * used + j multiplies row x[s / slots_per_input] by matrix
 * expert_ids[s], plain (psi_moe_matmul) or gate and up with their activation (psi_moe_glu). Two forms with the same bits:
 * - few slots (this file): no sort; a block finds its expert's slots itself and streams 2 x 16 outputs of the matrix;
 * - many (product.h): slots sorted by expert, x rounded to bf16, tiles on tensor cores.
 *
 * The block: 8 warps, one per segment of the columns (units of 64 in at most 8 segments of ceil(units / 8)). A warp has
 * as many units of its two tiles under way as fit in registers, keeps its segment of the rows of x as bf16 in shared
 * memory, and multiplies 16 outputs x 8 slots at a time. More than 8 slots at once: x is rounded before. Segments are added in order through shared memory, then bias.
 */
#pragma once
#include "glu.cuh"
#include "instructions.h"
#include "moe_sort.cuh"
#include "product.h"
#include "round.cuh"
#include "weights.cuh"

namespace psi {

struct MoeArguments {
  float* y;
  const float* x;
  const u16* rounded; /* x as bf16 (round.cuh), where the form wants it */
  const u8* w;
  const float* bias;
  const i32* expert_ids;
  i32 slots, slots_per_input, experts;
  i32 outputs; /* rows of a matrix; with a gate twice the columns of y */
  i32 columns;
  ProductGate gate; /* kind -1: none */
  i32 ids_ready; /* expert_ids were there before the kernel before this one began */
  i32 lets_late; /* the next kernel begins when this one's inputs are there, and relies on it */
};

/* What the launcher works out for the blocks. */
struct MoeShape {
  i32 units, segment_units, segments, tiles;
  i64 tile_bytes;
  i32 columns_at_once; /* slots that pass by the weights at once */
  i32 zero;            /* 0, which a compiler does not know: keeps loads inside their loop */
};

constexpr int MOE_THREADS = 256, MOE_SEGMENTS = 8;
constexpr int MOE_DECODE_SLOTS = 256; /* the most that this form takes */
constexpr int MOE_SHARED_GOAL = 110 << 10; /* two blocks to a multiprocessor */

/* A row of x in shared memory, `units` times 64 elements, with a shift against bank conflicts. */
__host__ __device__ constexpr i32 moe_row_bytes(i32 units) { return units * 128 + 16; }
/* Shared memory per slot of a block: its row, and its part of 8 segments' sums for 2 x 16 outputs. */
__host__ __device__ constexpr i32 moe_slot_bytes(i32 units) { return moe_row_bytes(units) + MOE_SEGMENTS * 32 * 4; }

/* An expert's slots in order, and the row of x of each: in shared memory. */
struct MoeSlots {
  i32 slot[MOE_DECODE_SLOTS], row[MOE_DECODE_SLOTS];
};

/* An expert and how many slots it has; count 0: nothing for this block to do. */
struct MoeGroup {
  i32 expert, count;
};

/*
 * Block y's expert: y itself, or, where slots are fewer, that of slot y unless an earlier slot has it. Warp 0 writes
 * `own`. The result is the same in all threads.
 */
__device__ __forceinline__ MoeGroup find_moe_group(const MoeArguments& p, MoeSlots& own) {
  const i32 lane = threadIdx.x % 32, candidate = blockIdx.y;
  const bool by_slot = p.slots <= p.experts;
  MoeGroup group = {by_slot ? p.expert_ids[candidate] : candidate, 0};
  i32 leader = candidate;
#pragma unroll 1
  for (i32 first = 0; first < p.slots; first += 32) {
    i32 slot = first + lane;
    bool mine = slot < p.slots && p.expert_ids[slot] == group.expert;
    u32 all = __ballot_sync(~0u, mine);
    if (by_slot && all && group.count == 0) leader = first + __ffs((int)all) - 1;
    if (threadIdx.x < 32 && mine) {
      i32 at = group.count + __popc(all & ((1u << lane) - 1));
      own.slot[at] = slot;
      own.row[at] = slot / p.slots_per_input;
    }
    group.count += __popc(all);
  }
  if (leader != candidate || (u32)group.expert >= (u32)p.experts) group.count = 0;
  return group;
}

/* A warp's units first..end-1 of the rows of `count` slots, rounded to bf16 on the way to shared memory. */
template <class W>
__device__ __forceinline__ void round_moe_rows(const MoeArguments& p, u8* shared, i32 row_bytes, const i32* row, i32 count, i32 first, i32 end) {
  constexpr int FLIGHT = 3; /* six units: 3 072 columns and less are under way at once */
  const i32 lane = threadIdx.x % 32;
#pragma unroll 1
  for (i32 slot = 0; slot < count; slot++) {
    const float* from = p.x + (i64)row[slot] * p.columns;
    u8* to = shared + slot * row_bytes;
#pragma unroll 1
    for (i32 base = first * 64 + lane * 4; base < end * 64; base += 128 * FLIGHT) {
      float4 v[FLIGHT];
#pragma unroll
      for (int i = 0; i < FLIGHT; i++) {
        v[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (base + 128 * i < min(end * 64, p.columns)) v[i] = *(const float4*)(from + base + 128 * i);
      }
#pragma unroll
      for (int i = 0; i < FLIGHT; i++)
        if (base + 128 * i < end * 64) store_rounded<W::PARTS>(to, base + 128 * i, v[i]);
    }
  }
}

/* The same from rows that are bf16 already: all under way at once. */
template <class W>
__device__ __forceinline__ void copy_moe_rows(const MoeArguments& p, u8* shared, i32 row_bytes, const i32* row, i32 count, i32 first, i32 end) {
  const i32 lane = threadIdx.x % 32, pitch = rounded_columns<W>(p.columns);
#pragma unroll 1
  for (i32 slot = 0; slot < count; slot++) {
    const u16* from = p.rounded + (i64)row[slot] * pitch;
    u8* to = shared + slot * row_bytes;
#pragma unroll 1
    for (i32 column = first * W::PARTS * 64 + lane * 8; column < end * W::PARTS * 64; column += 256) {
      bool valid = column < pitch;
      copy_async16(to + column * 2, valid ? from + column : p.rounded, valid);
    }
  }
  copy_async_commit();
  copy_async_wait<0>();
}

/* Units of both tiles under way per warp: as many as stay in registers, with what is needed besides. */
template <class W, int GROUPS>
constexpr int moe_depth() {
  constexpr int unit = 2 * (int)sizeof(typename W::Raw), room = GROUPS > 1 ? 192 : unit > 48 ? 128 : 144;
  return unit > room ? 1 : room < 6 * unit ? room / unit : 6;
}

/* One unit of both tiles times GROUPS of 8 slots, b being a part of theirs; wide: weights.cuh, MXFP4. */
template <class W, int GROUPS>
__device__ __forceinline__ void multiply_moe_unit(float (*sum)[GROUPS][4], const typename W::Raw* raw, const u32 (*b)[8], i32 count, bool wide) {
#pragma unroll
  for (int step = 0; step < 4; step++)
#pragma unroll
    for (int m = 0; m < 2; m++) {
      u32 a[4];
      if constexpr (W::ID == MXFP4) W::fragment(raw[m], step, a, wide);
      else W::fragment(raw[m], step, a);
#pragma unroll
      for (int g = 0; g < GROUPS; g++)
        if (g == 0 || g * 8 < count) mma_bf16(sum[m][g], a, b[g] + 2 * step);
    }
}

/* GROUPS: of 8 slots that pass by the weights at once. */
template <class W, int GROUPS, bool GATED>
__global__ void __launch_bounds__(MOE_THREADS, GROUPS == 1 ? 3 : 2) moe_decode_kernel(const __grid_constant__ MoeArguments p, const __grid_constant__ MoeShape s) {
  constexpr int DEPTH = moe_depth<W, GROUPS>();
  PSI_DYNAMIC_SHARED(shared);
  __shared__ MoeSlots own;
  if (!GATED && !p.lets_late) let_next_start(); /* what comes after a gated one may rely on expert_ids */
  const i32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, row_bytes = moe_row_bytes(s.units * W::PARTS);
  const i32 first = min(warp * s.segment_units, s.units), end = min(first + s.segment_units, s.units);
  const i32 tile[2] = {GATED ? (i32)blockIdx.x : 2 * (i32)blockIdx.x, GATED ? (i32)blockIdx.x + s.tiles / 2 : min(2 * (i32)blockIdx.x + 1, s.tiles - 1)};
  if (!p.ids_ready) {
    wait_for_inputs();
    if (GATED || p.lets_late) let_next_start();
  }
  const MoeGroup group = find_moe_group(p, own);
  if (group.count == 0) {
    wait_for_inputs();
    return;
  }
  const u8* weights[2];
#pragma unroll
  for (int m = 0; m < 2; m++) weights[m] = p.w + ((i64)group.expert * s.tiles + tile[m]) * s.tile_bytes;
  const i32 column = threadIdx.x / 16, row = threadIdx.x % 16; /* of the results that this thread finishes */
  float bias[2] = {};
#pragma unroll
  for (int m = 0; m < 2; m++)
    if (p.bias && tile[m] * 16 + row < p.outputs) bias[m] = p.bias[(i64)group.expert * p.outputs + tile[m] * 16 + row];
  float* sums = (float*)(shared + s.columns_at_once * row_bytes); /* [segment][2][columns_at_once][16] */

#pragma unroll 1
  for (i32 done = 0; done < group.count; done += s.columns_at_once) {
    typename W::Raw raw[DEPTH][2];
#pragma unroll
    for (int d = 0; d < DEPTH; d++)
      if (first + d < end)
#pragma unroll
        for (int m = 0; m < 2; m++) W::load(raw[d][m], weights[m], s.units, first + d, lane);
    if (p.ids_ready && done == 0) {
      wait_for_inputs();
      if (GATED || p.lets_late) let_next_start();
    }
    __syncthreads(); /* own is written; the sums of the round before are read */
    const i32 count = min(group.count - done, s.columns_at_once);
    if (GROUPS > 1) copy_moe_rows<W>(p, shared, row_bytes, own.row + done, count, first, end);
    else round_moe_rows<W>(p, shared, row_bytes, own.row + done, count, first, end);
    __syncwarp(); /* a warp reads only what it wrote */

    float sum[2][GROUPS][4] = {};
    const u8* fragments[GROUPS]; /* ldmatrix: lane's slot, repeated past the last one, and its 8 of 32 columns */
#pragma unroll
    for (int g = 0; g < GROUPS; g++) fragments[g] = shared + min(g * 8 + lane % 8, count - 1) * row_bytes + lane / 8 * 16;
#pragma unroll 1
    for (i32 base = first; base < end; base += DEPTH) {
#pragma unroll
      for (int d = 0; d < DEPTH; d++) {
        const i32 unit = base + d;
        if (unit >= end) break;
#pragma unroll
        for (int part = 0; part < W::PARTS; part++) {
          const i32 at = (unit * W::PARTS + part) * 128;
          u32 b[GROUPS][8];
#pragma unroll
          for (int g = 0; g < GROUPS; g++)
            if (g == 0 || g * 8 < count) {
              load_matrix_x4(b[g], fragments[g] + at);
              load_matrix_x4(b[g] + 4, fragments[g] + at + 64);
            }
          bool wide = false;
          if constexpr (W::ID == MXFP4) wide = __any_sync(~0u, W::is_wide(raw[d][0]) || W::is_wide(raw[d][1]));
          if (wide) multiply_moe_unit<W, GROUPS>(sum, raw[d], b, count, true);
          else multiply_moe_unit<W, GROUPS>(sum, raw[d], b, count, false);
        }
        if (unit + DEPTH < end)
#pragma unroll
          for (int m = 0; m < 2; m++) W::load(raw[d][m], weights[m], s.units, unit + DEPTH, lane);
      }
    }

#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
      for (int g = 0; g < GROUPS; g++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
          i32 column = g * 8 + lane % 4 * 2 + i % 2, row = lane / 4 + i / 2 * 8;
          if (column < count) sums[((warp * 2 + m) * s.columns_at_once + column) * 16 + row] = sum[m][g][i];
        }
    __syncthreads();
#pragma unroll
    for (int m = 0; m < 2; m++) weights[m] += s.zero;
    if (column >= count) continue;
    const i32 stride = GATED ? p.outputs / 2 : p.outputs;
    float* to = p.y + (i64)own.slot[done + column] * stride;
    float total[2];
#pragma unroll
    for (int m = 0; m < 2; m++) {
      const float* from = sums + (m * s.columns_at_once + column) * 16 + row;
      float part[MOE_SEGMENTS];
#pragma unroll
      for (int k = 0; k < MOE_SEGMENTS; k++) part[k] = k < s.segments ? from[k * 32 * s.columns_at_once] : 0.0f;
      total[m] = part[0];
#pragma unroll
      for (int k = 1; k < MOE_SEGMENTS; k++)
        if (k < s.segments) total[m] += part[k];
      if (p.bias) total[m] += bias[m];
    }
    if constexpr (GATED) {
      to[tile[0] * 16 + row] = gated_activation(p.gate.kind, total[0], total[1], p.gate.alpha, p.gate.limit);
    } else {
#pragma unroll
      for (int m = 0; m < 2; m++)
        if (tile[m] * 16 + row < p.outputs) to[tile[m] * 16 + row] = total[m];
    }
  }
}

/* What the blocks of a form of few slots share. */
template <class W>
MoeShape moe_shape(const MoeArguments& p, i32 columns_at_once) {
  MoeShape s;
  s.units = PSI_DIVIDE_UP(p.columns, 64);
  s.segment_units = PSI_DIVIDE_UP(s.units, MOE_SEGMENTS);
  s.segments = PSI_DIVIDE_UP(s.units, s.segment_units);
  s.tiles = PSI_DIVIDE_UP(p.outputs, 16);
  s.tile_bytes = W::tile_bytes(s.units);
  s.columns_at_once = columns_at_once;
  s.zero = 0;
  return s;
}

}  // namespace psi
