/*
 * The form for some tens of slots on Hopper: a block takes a pair of tiles of one expert, which come by bulk copies into shared
 * memory, so that all their bytes are under way at once and little code is needed. The sums of moe.cuh's other forms.
 *
 * 16 warps: warp w multiplies tile w / 8 of the pair in segment w % 8 of the columns, for up to 8 slots at a time (a
 * round). Their rows of x, rounded to bf16 before, come by bulk copies too.
 */
#pragma once
#include "moe.cuh"

namespace psi {

constexpr int BULK_THREADS = 512, BULK_ROUND = 8;
constexpr i32 FEWEST_BULK_SLOTS = 16; /* fewer are done sooner by moe.cuh's form, which begins with less ado */

/* Places in shared memory, bytes. */
struct MoeBulkPlaces {
  i32 rows, sums, arrivals, bytes;
};
__host__ __device__ inline MoeBulkPlaces moe_bulk_places(i64 tile_bytes, i32 units, i32 slots_at_once) {
  MoeBulkPlaces b;
  b.rows = 2 * (i32)tile_bytes;                                   /* [slots_at_once] */
  b.sums = b.rows + slots_at_once * moe_row_bytes(units);         /* [segment][2][8 slots][16] floats */
  b.arrivals = b.sums + MOE_SEGMENTS * 2 * BULK_ROUND * 16 * 4;
  b.bytes = b.arrivals + 16;
  return b;
}

template <class W, bool GATED>
__global__ void __launch_bounds__(BULK_THREADS, 2) moe_bulk_kernel(const __grid_constant__ MoeArguments p, const __grid_constant__ MoeShape s) {
  PSI_DYNAMIC_SHARED(shared);
  __shared__ MoeSlots own;
  let_next_start();
  const MoeBulkPlaces at = moe_bulk_places(s.tile_bytes, s.units, s.columns_at_once);
  u64* arrivals = (u64*)(shared + at.arrivals); /* of the tiles, of a round's rows */
  const i32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, segment = warp % 8, m = warp / 8, row_bytes = moe_row_bytes(s.units);
  const i32 first = min(segment * s.segment_units, s.units), end = min(first + s.segment_units, s.units);
  const i32 tile[2] = {GATED ? (i32)blockIdx.x : 2 * (i32)blockIdx.x, GATED ? (i32)blockIdx.x + s.tiles / 2 : min(2 * (i32)blockIdx.x + 1, s.tiles - 1)};
  if (threadIdx.x == 0) bulk_start(arrivals), bulk_start(arrivals + 1);
  const i32 pad = s.units * 64 - p.columns; /* past the last column the copies leave what is there */
  for (i32 i = threadIdx.x; i < s.columns_at_once * pad; i += BULK_THREADS) *(u16*)(shared + at.rows + i / pad * row_bytes + (p.columns + i % pad) * 2) = 0;
  wait_for_inputs();
  const MoeGroup group = find_moe_group(p, own);
  if (group.count == 0) return;
  if (threadIdx.x == 0) {
    bulk_expect(arrivals, 2 * (u32)s.tile_bytes);
#pragma unroll
    for (int i = 0; i < 2; i++)
      bulk_copy(shared + i * s.tile_bytes, p.w + ((i64)group.expert * s.tiles + tile[i]) * s.tile_bytes, (u32)s.tile_bytes, arrivals);
  }
  const i32 which = threadIdx.x / (BULK_ROUND * 16), column = threadIdx.x / 16 % BULK_ROUND, row = threadIdx.x % 16; /* of a result */
  float bias[2] = {};
  if (p.bias && which < 2)
#pragma unroll
    for (int i = 0; i < 2; i++)
      if (tile[i] * 16 + row < p.outputs) bias[i] = p.bias[(i64)group.expert * p.outputs + tile[i] * 16 + row];
  __syncthreads(); /* own is written, the arrivals are made */

#pragma unroll 1
  for (i32 done = 0, round = 0; done < group.count; done += s.columns_at_once, round++) {
    const i32 count = min(group.count - done, s.columns_at_once);
    if (warp == 0) {
      if (lane == 0) bulk_expect(arrivals + 1, (u32)(count * p.columns * 2));
      __syncwarp();
      if (lane < count) bulk_copy(shared + at.rows + lane * row_bytes, p.rounded + (i64)own.row[done + lane] * p.columns, (u32)p.columns * 2, arrivals + 1);
    }
    bulk_wait(arrivals + 1, (u32)round & 1);
    if (round == 0) bulk_wait(arrivals, 0);

    const u8* fragments = shared + at.rows + min(lane % 8, count - 1) * row_bytes + lane / 8 * 16;
    float sum[4] = {};
#pragma unroll 1
    for (i32 unit = first; unit < end; unit++) {
      typename W::Raw raw;
      W::template load<true>(raw, shared + m * s.tile_bytes, s.units, unit, lane);
      u32 b[8];
      load_matrix_x4(b, fragments + unit * 128);
      load_matrix_x4(b + 4, fragments + unit * 128 + 64);
      bool wide = false; /* weights.cuh, MXFP4 */
      if constexpr (W::ID == MXFP4) wide = __any_sync(~0u, W::is_wide(raw));
#pragma unroll
      for (int i = 0; i < 4; i++) {
        u32 a[4];
        if constexpr (W::ID == MXFP4) W::fragment(raw, i, a, wide);
        else W::fragment(raw, i, a);
        mma_bf16(sum, a, b + 2 * i);
      }
    }
    float* sums = (float*)(shared + at.sums);
#pragma unroll
    for (int i = 0; i < 4; i++) sums[((segment * 2 + m) * BULK_ROUND + lane % 4 * 2 + i % 2) * 16 + lane / 4 + i / 2 * 8] = sum[i];
    __syncthreads(); /* the sums are there, and the rows are free */

    auto total = [&](int i) {
      const float* from = sums + (i * BULK_ROUND + column) * 16 + row;
      float part[MOE_SEGMENTS];
#pragma unroll
      for (int k = 0; k < MOE_SEGMENTS; k++) part[k] = k < s.segments ? from[k * 2 * BULK_ROUND * 16] : 0.0f;
      float t = part[0];
#pragma unroll
      for (int k = 1; k < MOE_SEGMENTS; k++)
        if (k < s.segments) t += part[k];
      return p.bias ? t + bias[i] : t;
    };
    if (which < (GATED ? 1 : 2) && column < count) {
      float* to = p.y + (i64)own.slot[done + column] * (GATED ? p.outputs / 2 : p.outputs);
      if constexpr (GATED) {
        to[tile[0] * 16 + row] = gated_activation(p.gate.kind, total(0), total(1), p.gate.alpha, p.gate.limit);
      } else {
        const i32 output = tile[which] * 16 + row;
        if (output < p.outputs) to[output] = which == 0 ? total(0) : total(1);
      }
    }
    if (done + count < group.count) __syncthreads(); /* the sums are read */
  }
}

/* How many slots pass by at once: as many as an expert can have, up to a round. */
inline i32 bulk_slots_at_once(const MoeArguments& p, i32 tokens) { return min(min(tokens, p.slots), BULK_ROUND); }

/* Bytes of shared memory, 0 where this form does not apply. */
template <class W>
i32 moe_bulk_bytes(const MoeArguments& p, i32 slots_at_once) {
  const i32 units = PSI_DIVIDE_UP(p.columns, 64);
  const bool fits = bulk_copies() && p.slots <= MOE_DECODE_SLOTS && p.columns % 8 == 0 && (uintptr_t)p.x % 16 == 0;
  if (!fits || W::tile_bytes(units) > 64 << 10) return 0;
  const i32 bytes = moe_bulk_places(W::tile_bytes(units), units, slots_at_once).bytes;
  return bytes + 4096 <= device.largest_shared ? bytes : 0;
}

template <class W, bool GATED>
i32 launch_moe_bulk(const char* op, const MoeArguments& p, i32 slots_at_once, i32 bytes) {
  const MoeShape s = moe_shape<W>(p, slots_at_once);
  const dim3 grid((unsigned)PSI_DIVIDE_UP(s.tiles, 2), (unsigned)min(p.slots, p.experts));
  return launch(op, moe_bulk_kernel<W, GATED>, grid, dim3(BULK_THREADS), (size_t)bytes, p, s);
}

}  // namespace psi
