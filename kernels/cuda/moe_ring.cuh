/*
 * The form for up to some hundred slots on Hopper: a block per multiprocessor that stays, with a run of pairs of tiles, which
 * come by bulk copies into a ring in shared memory, so that the next pairs are under way while one is multiplied. The sums
 * of moe.cuh's other form.
 *
 * 16 warps: warp w multiplies tile w / 8 of a pair in segment w % 8 of the columns, for a group of up to GROUPS * 8 slots of one
 * expert, whose rows of x stay in shared memory, rounded to bf16, for as long as the group stays the same. An expert with
 * more slots makes several groups.
 */
#pragma once
#include "moe.cuh"

namespace psi {

constexpr int RING_THREADS = 512, RING_WARPS = RING_THREADS / 32, RING_UNITS = 6;
constexpr i32 RING_SLOTS = RING_THREADS; /* the most slots, and experts, that this form takes */
constexpr i32 FEWEST_RING_SLOTS = 17;    /* fewer are done sooner by moe.cuh's form, which begins with less ado */

/* Places in shared memory, bytes; `units` of 64 elements of a row of x. */
struct MoeRingPlaces {
  i32 rows, sums, arrivals, bytes;
};
__host__ __device__ inline MoeRingPlaces moe_ring_places(i64 tile_bytes, i32 units, i32 stages, i32 slots) {
  MoeRingPlaces b;
  b.rows = stages * 2 * (i32)tile_bytes;                    /* [slots of a group] */
  b.sums = b.rows + slots * moe_row_bytes(units);           /* [2][segment][2][slots][16] floats; before: RingCounts */
  b.arrivals = b.sums + 2 * MOE_SEGMENTS * 2 * slots * 16 * 4;
  b.bytes = b.arrivals + stages * 8;
  return b;
}

/* The slots in order of their expert, and the groups of them. */
struct RingGroups {
  u16 slot[RING_SLOTS], expert[RING_SLOTS], begin[RING_SLOTS + 1];
};
/* What is needed to find them. */
struct RingCounts {
  u8 seen[RING_WARPS][RING_SLOTS]; /* [warp][expert] slots */
  u16 first_slot[RING_SLOTS];
  i32 slots[RING_WARPS], groups[RING_WARPS];
};
static_assert(sizeof(RingCounts) <= 2 * MOE_SEGMENTS * 2 * 8 * 16 * 4, "what lies where the sums come to lie");

/* Number of groups of at most `most` slots of one expert. Thread i counts for slot i, then for expert i. */
__device__ __forceinline__ i32 group_ring_slots(const MoeArguments& p, RingGroups& own, RingCounts& c, i32 most) {
  const i32 i = threadIdx.x, lane = i % 32, warp = i / 32;
  i32 id = i < p.slots ? p.expert_ids[i] : -1;
  if ((u32)id >= (u32)p.experts) id = -1;
  for (i32 at = i; at < (i32)sizeof c.seen / 4; at += RING_THREADS) ((u32*)c.seen)[at] = 0;
  __syncthreads();
  const u32 peers = __match_any_sync(~0u, id);
  if (id >= 0 && lane == __ffs((int)peers) - 1) c.seen[warp][id] = (u8)__popc(peers);
  __syncthreads();
  const i32 warps = PSI_DIVIDE_UP(p.slots, 32);
  i32 count = 0;
  for (i32 w = 0; w < warps; w++) count += c.seen[w][i];
  const i32 parts = (count + most - 1) / most;
  i32 slots_to = count, groups_to = parts;
#pragma unroll
  for (int o = 1; o < 32; o *= 2) {
    const i32 a = __shfl_up_sync(~0u, slots_to, o), b = __shfl_up_sync(~0u, groups_to, o);
    if (lane >= o) slots_to += a, groups_to += b;
  }
  if (lane == 31) c.slots[warp] = slots_to, c.groups[warp] = groups_to;
  __syncthreads();
  i32 slots = 0, groups = 0, slot = slots_to - count, group = groups_to - parts;
#pragma unroll
  for (i32 w = 0; w < RING_WARPS; w++) {
    if (w < warp) slot += c.slots[w], group += c.groups[w];
    slots += c.slots[w], groups += c.groups[w];
  }
  c.first_slot[i] = (u16)slot;
  for (i32 g = 0; g < parts; g++) own.expert[group + g] = (u16)i, own.begin[group + g] = (u16)(slot + g * most);
  if (i == 0) own.begin[groups] = (u16)slots;
  __syncthreads();
  if (id >= 0) {
    i32 at = c.first_slot[id] + __popc(peers & ((1u << lane) - 1));
    for (i32 w = 0; w < warp; w++) at += c.seen[w][id];
    own.slot[at] = (u16)i;
  }
  __syncthreads();
  return groups;
}

/* The rows of a group's slots as bf16 in shared memory, by all warps. */
template <class W>
__device__ __forceinline__ void stage_ring_rows(const MoeArguments& p, u8* shared, i32 row_bytes, const u16* slot, i32 count, i32 units) {
  const i32 quads = units * 16;
  for (i32 r = 0; r < count; r++) {
    const float* from = p.x + (i64)(slot[r] / p.slots_per_input) * p.columns;
    for (i32 quad = threadIdx.x; quad < quads; quad += RING_THREADS) {
      float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      if (quad * 4 < p.columns) v = *(const float4*)(from + quad * 4);
      store_rounded<W::PARTS>(shared + r * row_bytes, quad * 4, v);
    }
  }
}

/* Units first..end-1 of a tile times GROUPS of 8 slots. ALL: RING_UNITS of them; wide: weights.cuh, MXFP4. */
template <class W, int GROUPS, bool ALL, bool WIDE>
__device__ __forceinline__ void multiply_ring_units(float (*sum)[4], const u8* tile, const u8* const* fragments, i32 units, i32 first, i32 end, i32 lane) {
#pragma unroll
  for (int u = 0; u < RING_UNITS; u++) {
    if (!ALL && first + u >= end) break;
    typename W::Raw raw;
    W::template load<true>(raw, tile, units, first + u, lane);
#pragma unroll
    for (int part = 0; part < W::PARTS; part++) {
      const i32 at = ((first + u) * W::PARTS + part) * 128;
      u32 b[GROUPS][8];
#pragma unroll
      for (int g = 0; g < GROUPS; g++) {
        load_matrix_x4(b[g], fragments[g] + at);
        load_matrix_x4(b[g] + 4, fragments[g] + at + 64);
      }
#pragma unroll
      for (int step = 0; step < 4; step++) {
        u32 a[4];
        if constexpr (W::ID == MXFP4) W::fragment(raw, step, a, WIDE);
        else W::fragment(raw, step, a);
#pragma unroll
        for (int g = 0; g < GROUPS; g++) mma_bf16(sum[g], a, b[g] + 2 * step);
      }
    }
  }
}

template <class W, int GROUPS, bool GATED>
__global__ void __launch_bounds__(RING_THREADS, 1) moe_ring_kernel(const __grid_constant__ MoeArguments p, const __grid_constant__ MoeShape s) {
  constexpr i32 MOST = GROUPS * 8;
  PSI_DYNAMIC_SHARED(shared);
  __shared__ RingGroups own;
  if (!GATED) let_next_start();
  const i32 stages = s.columns_at_once;
  const MoeRingPlaces at = moe_ring_places(s.tile_bytes, s.units * W::PARTS, stages, MOST);
  u64* arrivals = (u64*)(shared + at.arrivals);
  const i32 lane = threadIdx.x % 32, segment = threadIdx.x / 32 % 8, m = threadIdx.x / 256, row_bytes = moe_row_bytes(s.units * W::PARTS);
  const i32 first = min(segment * s.segment_units, s.units), end = min(first + s.segment_units, s.units);
  if (threadIdx.x == 0)
    for (int i = 0; i < stages; i++) bulk_start(arrivals + i);
  if (!p.ids_ready) wait_for_inputs();
  const i32 groups = group_ring_slots(p, own, *(RingCounts*)(shared + at.sums), MOST);

  const i32 pairs = GATED ? s.tiles / 2 : PSI_DIVIDE_UP(s.tiles, 2), all = groups * pairs;
  const i32 share = all / (i32)gridDim.x, extra = all % (i32)gridDim.x, number = blockIdx.x;
  const i32 begin = number * share + min(number, extra), stop = begin + share + (number < extra ? 1 : 0);
  auto tile_of = [&](i32 pair, int half) { return GATED ? pair + half * (s.tiles / 2) : min(2 * pair + half, s.tiles - 1); };
  auto fetch = [&](i32 item, i32 stage) { /* by one thread */
    const u8* matrix = p.w + (i64)own.expert[item / pairs] * s.tiles * s.tile_bytes;
    bulk_expect(arrivals + stage, 2 * (u32)s.tile_bytes);
#pragma unroll
    for (int half = 0; half < 2; half++)
      bulk_copy(shared + (stage * 2 + half) * s.tile_bytes, matrix + tile_of(item % pairs, half) * s.tile_bytes, (u32)s.tile_bytes, arrivals + stage);
  };
  if (threadIdx.x == 0)
    for (i32 i = 0; i < stages && begin + i < stop; i++) fetch(begin + i, i);
  if (p.ids_ready) wait_for_inputs();
  if (GATED) let_next_start(); /* what comes next may rely on expert_ids */

  const u8* fragments[GROUPS] = {};
  const i32 output = threadIdx.x % 16, column = threadIdx.x / 16 % MOST, which = threadIdx.x / (16 * MOST); /* of a result */
  i32 group = begin / pairs, pair = begin % pairs, stage = 0, parity = 0, held = -1, count = 0;
#pragma unroll 1
  for (i32 item = begin; item < stop; item++) {
    if (held != group) {
      const i32 from = own.begin[group];
      count = own.begin[group + 1] - from;
      __syncthreads(); /* the rows of before are read */
      stage_ring_rows<W>(p, shared + at.rows, row_bytes, own.slot + from, count, s.units);
      __syncthreads();
      held = group;
#pragma unroll
      for (int g = 0; g < GROUPS; g++) fragments[g] = shared + at.rows + min(g * 8 + lane % 8, count - 1) * row_bytes + lane / 8 * 16;
    }
    bulk_wait(arrivals + stage, (u32)parity);
    const u8* tile = shared + (stage * 2 + m) * s.tile_bytes;
    float sum[GROUPS][4] = {};
#pragma unroll 1
    for (i32 base = first; base < end; base += RING_UNITS) {
      bool wide = false;
      if constexpr (W::ID == MXFP4) {
#pragma unroll
        for (int u = 0; u < RING_UNITS; u++) wide |= W::is_wide(tile, s.units, min(base + u, end - 1), lane);
        wide = __any_sync(~0u, wide);
      }
      if (wide) multiply_ring_units<W, GROUPS, false, true>(sum, tile, fragments, s.units, base, end, lane);
      else if (end - base >= RING_UNITS) multiply_ring_units<W, GROUPS, true, false>(sum, tile, fragments, s.units, base, end, lane);
      else multiply_ring_units<W, GROUPS, false, false>(sum, tile, fragments, s.units, base, end, lane);
    }
    float* sums = (float*)(shared + at.sums) + (item - begin) % 2 * (MOE_SEGMENTS * 2 * MOST * 16); /* [segment][2][slot][16] */
#pragma unroll
    for (int g = 0; g < GROUPS; g++)
#pragma unroll
      for (int i = 0; i < 4; i++) sums[((segment * 2 + m) * MOST + g * 8 + lane % 4 * 2 + i % 2) * 16 + lane / 4 + i / 2 * 8] = sum[g][i];
    __syncthreads(); /* the sums are there, the tiles are read; so are the sums of the item before */
    if (threadIdx.x == 0 && item + stages < stop) fetch(item + stages, stage);
    auto total = [&](int half) {
      const float* from = sums + (half * MOST + column) * 16 + output;
      float part[MOE_SEGMENTS];
#pragma unroll
      for (int k = 0; k < MOE_SEGMENTS; k++) part[k] = k < s.segments ? from[k * 2 * MOST * 16] : 0.0f;
      float t = part[0];
#pragma unroll
      for (int k = 1; k < MOE_SEGMENTS; k++)
        if (k < s.segments) t += part[k];
      return p.bias ? t + p.bias[(i64)own.expert[group] * p.outputs + tile_of(pair, half) * 16 + output] : t;
    };
    if (column < count && which < (GATED ? 1 : 2)) {
      float* to = p.y + (i64)own.slot[own.begin[group] + column] * (GATED ? p.outputs / 2 : p.outputs);
      if constexpr (GATED) {
        to[pair * 16 + output] = gated_activation(p.gate.kind, total(0), total(1), p.gate.alpha, p.gate.limit);
      } else {
        const i32 at_output = (2 * pair + which) * 16 + output;
        if (at_output < p.outputs) to[at_output] = total(which);
      }
    }
    if (++pair == pairs) pair = 0, group++;
    if (++stage == stages) stage = 0, parity ^= 1;
  }
}

/* Slots of a group: twice 8 where there are many, each of which costs the products that spare slots make. */
inline i32 moe_ring_groups(const MoeArguments& p) { return p.slots > 6 * p.experts ? 2 : 1; }

/* Stages of the ring that shared memory has room for; fewer than 2: this form does not apply. */
template <class W>
i32 moe_ring_stages(const MoeArguments& p, i32 slots) {
  const i32 units = PSI_DIVIDE_UP(p.columns, 64);
  const bool fits = bulk_copies() && p.slots <= RING_SLOTS && p.experts <= RING_SLOTS && p.columns % 8 == 0 && (uintptr_t)p.x % 16 == 0;
  if (!fits || W::tile_bytes(units) > 64 << 10) return 0;
  i32 stages = 8;
  while (stages > 1 && moe_ring_places(W::tile_bytes(units), units * W::PARTS, stages, slots).bytes + (i32)sizeof(RingGroups) + 1024 > device.largest_shared) stages--;
  return stages;
}

template <class W, int GROUPS, bool GATED>
i32 launch_moe_ring(const char* op, const MoeArguments& p) {
  const i32 stages = moe_ring_stages<W>(p, GROUPS * 8);
  const MoeShape s = moe_shape<W>(p, stages);
  const i32 bytes = moe_ring_places(s.tile_bytes, s.units * W::PARTS, stages, GROUPS * 8).bytes;
  return launch(op, moe_ring_kernel<W, GROUPS, GATED>, dim3((unsigned)device.multiprocessors), dim3(RING_THREADS), (size_t)bytes, p, s);
}

}  // namespace psi
