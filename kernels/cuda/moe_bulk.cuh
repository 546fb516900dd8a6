/*
 * The form for few slots on Hopper: as many blocks as multiprocessors, each of which takes items, an expert's pair of
 * tiles, one after the other. While one item is multiplied the next one's tiles come by bulk copies into the other of two
 * buffers, so that memory never waits. The same sums in the same order as moe.cuh's other forms.
 *
 * 16 warps: warp w multiplies tile w / 8 of the pair in segment w % 8 of the columns, for up to 8 slots at a time (a
 * round). x is bf16 in shared memory: all its rows from the start when there are at most 8, else a round's rows come
 * with the tiles, from x rounded before.
 */
#pragma once
#include "moe.cuh"

namespace psi {

constexpr int BULK_THREADS = 512, BULK_ROUND = 8, BULK_MOST_EXPERTS = 512;

/* Slots by expert. */
struct MoeLists {
  i32 sorted[MOE_DECODE_SLOTS];
  i32 expert[MOE_DECODE_SLOTS + 1], begin[MOE_DECODE_SLOTS + 1]; /* of each group */
  i32 groups, spare;
  i32 warp_slots[16], warp_groups[16];
};

/* Places in shared memory, bytes. */
struct MoeBulkPlaces {
  i32 tiles, rows, sums, lists, arrivals, bytes;
};
__host__ __device__ inline MoeBulkPlaces moe_bulk_places(i64 tile_bytes, i32 units, bool staged) {
  MoeBulkPlaces b;
  b.tiles = 0;                                                            /* [2][2 tiles] */
  b.rows = 4 * (i32)tile_bytes;                                           /* [2 when staged][8 rows] */
  b.sums = b.rows + (staged ? 2 : 1) * BULK_ROUND * moe_row_bytes(units); /* [2][segment][2][8 slots][16] floats */
  b.lists = b.sums + 2 * MOE_SEGMENTS * 2 * BULK_ROUND * 16 * 4;
  b.arrivals = b.lists + ((i32)sizeof(MoeLists) + 15) / 16 * 16;
  b.bytes = b.arrivals + 16;
  return b;
}

/* Thread e looks for expert e's slots; groups are numbered by expert, slots ascend within one. */
__device__ inline void list_moe_groups(const MoeArguments& p, MoeLists& l, i32* ids) {
  const i32 e = threadIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (e < p.slots) ids[e] = p.expert_ids[e];
  __syncthreads();
  i32 own = 0;
  if (e < p.experts)
    for (i32 s = 0; s < p.slots; s++) own += ids[s] == e ? 1 : 0;
  i32 slots = own, groups = own > 0 ? 1 : 0; /* through this thread, then before it */
  for (int d = 1; d < 32; d *= 2) {
    i32 a = __shfl_up_sync(~0u, slots, d), b = __shfl_up_sync(~0u, groups, d);
    if (lane >= d) slots += a, groups += b;
  }
  if (lane == 31) l.warp_slots[warp] = slots, l.warp_groups[warp] = groups;
  __syncthreads();
  for (int w = 0; w < warp; w++) slots += l.warp_slots[w], groups += l.warp_groups[w];
  if (threadIdx.x == BULK_THREADS - 1) l.groups = groups, l.begin[groups] = slots;
  slots -= own;
  if (own > 0) {
    l.expert[groups - 1] = e;
    l.begin[groups - 1] = slots;
    for (i32 s = 0; s < p.slots; s++)
      if (ids[s] == e) l.sorted[slots++] = s;
  }
  __syncthreads();
}

/* A round of an item. */
struct MoeStep {
  i32 item, group, pair, round, rounds, count; /* count: slots of this round */
};
__device__ __forceinline__ void place_step(const MoeLists& l, i32 pairs, MoeStep& s) {
  s.group = s.item / pairs, s.pair = s.item % pairs;
  if (s.group >= l.groups) return;
  const i32 slots = l.begin[s.group + 1] - l.begin[s.group];
  s.rounds = PSI_DIVIDE_UP(slots, BULK_ROUND);
  s.count = min(BULK_ROUND, slots - s.round * BULK_ROUND);
}
__device__ __forceinline__ void next_step(const MoeLists& l, i32 pairs, MoeStep& s) {
  if (++s.round == s.rounds) s.round = 0, s.item += gridDim.x;
  place_step(l, pairs, s);
}

/* All rows of x, rounded to bf16. */
__device__ inline void round_all_rows(const MoeArguments& p, u8* to, i32 rows, i32 row_bytes, i32 units) {
  const i32 quarter = units * 16; /* pieces of 4 columns in a row */
  for (i32 i = threadIdx.x; i < rows * quarter; i += BULK_THREADS) {
    const i32 row = i / quarter, column = i % quarter * 4;
    float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (column < p.columns) v = *(const float4*)(p.x + (i64)row * p.columns + column);
    *(uint2*)(to + row * row_bytes + column * 2) = make_uint2(pack_bf16(v.x, v.y), pack_bf16(v.z, v.w));
  }
}

template <class W, bool GATED, bool STAGED>
__global__ void __launch_bounds__(BULK_THREADS, 1) moe_bulk_kernel(const __grid_constant__ MoeArguments p, const __grid_constant__ MoeShape s) {
  PSI_DYNAMIC_SHARED(shared);
  let_next_start();
  const MoeBulkPlaces at = moe_bulk_places(s.tile_bytes, s.units, STAGED);
  MoeLists& lists = *(MoeLists*)(shared + at.lists);
  u64* arrivals = (u64*)(shared + at.arrivals);
  const i32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, segment = warp % 8, m = warp / 8;
  const i32 row_bytes = moe_row_bytes(s.units), pairs = PSI_DIVIDE_UP(s.tiles, 2), pair_bytes = 2 * (i32)s.tile_bytes;
  const i32 first = min(segment * s.segment_units, s.units), end = min(first + s.segment_units, s.units);
  if (threadIdx.x == 0) bulk_start(arrivals), bulk_start(arrivals + 1);
  if (STAGED) /* past the last column the copies leave what is there */
    for (i32 i = threadIdx.x; i < 2 * BULK_ROUND * (s.units * 64 - p.columns); i += BULK_THREADS) {
      const i32 pad = s.units * 64 - p.columns;
      *(u16*)(shared + at.rows + i / pad * row_bytes + (p.columns + i % pad) * 2) = 0;
    }
  wait_for_inputs();
  list_moe_groups(p, lists, (i32*)(shared + at.sums));

  auto tile_of = [&](const MoeStep& t, int which) { return GATED ? t.pair + which * (s.tiles / 2) : min(2 * t.pair + which, s.tiles - 1); };
  auto row_of = [&](i32 slot) { return slot / p.slots_per_input; };
  /* Warp 0 fetches what step number k needs. */
  auto fetch = [&](const MoeStep& t, i32 k, i32 items) {
    if (warp != 0 || t.group >= lists.groups) return;
    u64* arrival = arrivals + k % 2;
    if (lane == 0) {
      bulk_expect(arrival, (t.round == 0 ? (u32)pair_bytes : 0) + (STAGED ? (u32)(t.count * p.columns * 2) : 0));
      if (t.round == 0)
        for (int which = 0; which < 2; which++)
          bulk_copy(shared + at.tiles + items % 2 * pair_bytes + which * s.tile_bytes,
                    p.w + ((i64)lists.expert[t.group] * s.tiles + tile_of(t, which)) * s.tile_bytes, (u32)s.tile_bytes, arrival);
    }
    __syncwarp();
    if (STAGED && lane < t.count) {
      const i32 slot = lists.sorted[lists.begin[t.group] + t.round * BULK_ROUND + lane];
      bulk_copy(shared + at.rows + (k % 2 * BULK_ROUND + lane) * row_bytes, p.rounded + (i64)row_of(slot) * p.columns, (u32)p.columns * 2, arrival);
    }
  };

  MoeStep step = {(i32)blockIdx.x, 0, 0, 0, 1, 0};
  place_step(lists, pairs, step);
  MoeStep ahead = step;
  i32 ahead_items = 0;
  auto go_ahead = [&] {
    if (ahead.group >= lists.groups) return;
    next_step(lists, pairs, ahead);
    if (ahead.round == 0) ahead_items++;
  };
  fetch(ahead, 0, ahead_items);
  go_ahead();
  fetch(ahead, 1, ahead_items);
  go_ahead();
  if (!STAGED) round_all_rows(p, shared + at.rows, p.slots / p.slots_per_input, row_bytes, s.units);
  __syncthreads();

  i32 items = 0;
#pragma unroll 1
  for (i32 k = 0; step.group < lists.groups; k++) {
    const i32* slots = lists.sorted + lists.begin[step.group] + step.round * BULK_ROUND;
    bulk_wait(arrivals + k % 2, (u32)(k / 2) & 1);
    const u8* tile = shared + at.tiles + items % 2 * pair_bytes + m * s.tile_bytes;
    const i32 mine = min(lane % 8, step.count - 1);
    const i32 place = STAGED ? k % 2 * BULK_ROUND + mine : row_of(slots[mine]);
    const u8* fragments = shared + at.rows + place * row_bytes + lane / 8 * 16;
    float sum[4] = {};
#pragma unroll 1
    for (i32 unit = first; unit < end; unit++) {
      typename W::Raw raw;
      W::template load<true>(raw, tile, s.units, unit, lane);
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
    float* sums = (float*)(shared + at.sums) + k % 2 * (MOE_SEGMENTS * 2 * BULK_ROUND * 16);
#pragma unroll
    for (int i = 0; i < 4; i++) sums[((segment * 2 + m) * BULK_ROUND + lane % 4 * 2 + i % 2) * 16 + lane / 4 + i / 2 * 8] = sum[i];
    const MoeStep now = step;
    next_step(lists, pairs, step);
    if (step.round == 0) items++;
    __syncthreads(); /* the sums are there, and this step's buffers are free */
    fetch(ahead, k + 2, ahead_items);
    go_ahead();

    const i32 which = threadIdx.x / (BULK_ROUND * 16), column = threadIdx.x / 16 % BULK_ROUND, row = threadIdx.x % 16;
    if (which >= (GATED ? 1 : 2) || column >= now.count) continue;
    const float* bias = p.bias ? p.bias + (i64)lists.expert[now.group] * p.outputs : nullptr;
    auto total = [&](int w) {
      const float* from = sums + (w * BULK_ROUND + column) * 16 + row;
      float t = from[0];
#pragma unroll 1
      for (int g = 1; g < s.segments; g++) t += from[g * 2 * BULK_ROUND * 16];
      const i32 output = tile_of(now, w) * 16 + row;
      return bias && output < p.outputs ? t + bias[output] : t;
    };
    float* to = p.y + (i64)slots[column] * (GATED ? p.outputs / 2 : p.outputs);
    if constexpr (GATED) {
      to[now.pair * 16 + row] = gated_activation(p.gate.kind, total(0), total(1), p.gate.alpha, p.gate.limit);
    } else {
      const i32 output = tile_of(now, which) * 16 + row;
      if (output < p.outputs) to[output] = total(which);
    }
  }
}

/* Bytes of shared memory, 0 where this form does not apply. */
template <class W>
i32 moe_bulk_bytes(const MoeArguments& p, bool staged) {
  const i32 units = PSI_DIVIDE_UP(p.columns, 64);
  const bool fits = bulk_copies() && p.slots <= MOE_DECODE_SLOTS && p.experts <= BULK_MOST_EXPERTS && p.columns % 8 == 0 && (uintptr_t)p.x % 16 == 0;
  if (!fits || W::tile_bytes(units) > 64 << 10) return 0;
  const i32 bytes = moe_bulk_places(W::tile_bytes(units), units, staged).bytes;
  return bytes <= device.largest_shared ? bytes : 0;
}

template <class W, bool GATED>
i32 launch_moe_bulk(const char* op, const MoeArguments& p, bool staged, i32 bytes) {
  const MoeShape s = moe_shape<W>(p, BULK_ROUND);
  const i64 most = (i64)PSI_DIVIDE_UP(s.tiles, 2) * min(p.slots, p.experts);
  const dim3 grid((unsigned)min(most, (i64)device.multiprocessors));
  if (staged) return launch(op, moe_bulk_kernel<W, GATED, true>, grid, dim3(BULK_THREADS), (size_t)bytes, p, s);
  return launch(op, moe_bulk_kernel<W, GATED, false>, grid, dim3(BULK_THREADS), (size_t)bytes, p, s);
}

}  // namespace psi
