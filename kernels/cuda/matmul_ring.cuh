/*
 * On Hopper 3 to 8 rows, one or two where a tile and they are too long for shared memory, and gate and up with their activation
 * (psi_matmul_glu): blocks that stay, two to a multiprocessor, take TILES tiles of 16 outputs after another. Warp w has segment w
 * of the columns and a ring of its own, through which they come by bulk copies, a unit or two of all the item's tiles at a
 * time, the next item's behind them. x up to 2 rows is rounded by every block and stays; of more rows, rounded before
 * (round_units), the units come with those of the weights. The sums of matmul.cu's other forms, in their order.
 */
#pragma once
#include "glu.cuh"
#include "matmul.cuh"

namespace psi {

constexpr i32 MATMUL_RING_ROWS = 8, MATMUL_MOST_STAGES = 6;
constexpr i32 MATMUL_RING_SHARED = 112 << 10; /* two blocks to a multiprocessor */
/* Units of a stage: as many as leave room for two stages or more. */
template <bool STAGED>
constexpr i32 MATMUL_RING_UNITS = STAGED ? 1 : 2;

/* Bytes of a stage of a warp: a tile of MATMUL_RING_UNITS units each, then those units of the rows of x, 16-byte chunk c of row r at
   place c ^ r % 8. */
template <class W, int TILES, bool STAGED>
__host__ __device__ inline i32 matmul_ring_stage(i32 rows) {
  return TILES * (i32)W::tile_bytes(MATMUL_RING_UNITS<STAGED>) + (STAGED ? MATMUL_RING_UNITS<STAGED> * W::PARTS * rows * 128 : 0);
}

/* In shared memory: the warps' rings, x where it stays, two sets of sums [segment][tile][row][16], the stages' arrivals. */
struct MatmulRingPlaces {
  i32 rows, sums, arrivals, bytes;
};
template <class W, int TILES, bool STAGED>
__host__ __device__ inline MatmulRingPlaces matmul_ring_places(i32 units, i32 rows, i32 stages) {
  MatmulRingPlaces b;
  b.rows = MATMUL_SEGMENTS * stages * matmul_ring_stage<W, TILES, STAGED>(rows);
  b.sums = b.rows + (STAGED ? 0 : rows * matmul_row_bytes(units * W::PARTS));
  b.arrivals = b.sums + 2 * MATMUL_SEGMENTS * TILES * rows * 64;
  b.bytes = b.arrivals + MATMUL_SEGMENTS * stages * 8;
  return b;
}

template <class W, int TILES, bool STAGED, bool GATED>
__global__ void __launch_bounds__(MATMUL_THREADS, 2) matmul_ring_kernel(const __grid_constant__ MatmulArguments p, const ProductGate gate, i32 stages) {
  static_assert(!GATED || TILES == 2, "a tile of the gate and one of up");
  constexpr i32 UNITS = MATMUL_RING_UNITS<STAGED>;
  const i32 TILE = (i32)W::tile_bytes(UNITS);
  PSI_DYNAMIC_SHARED(shared);
  let_next_start();
  const MatmulRingPlaces at = matmul_ring_places<W, TILES, STAGED>(p.units, p.rows, stages);
  const i32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, row_bytes = matmul_row_bytes(p.units * W::PARTS);
  const i32 first = min(warp * p.segment_units, p.units), end = min(first + p.segment_units, p.units);
  const i32 stage_bytes = matmul_ring_stage<W, TILES, STAGED>(p.rows), unit_row_bytes = W::PARTS * p.rows * 128;
  const i32 tiles = PSI_DIVIDE_UP(p.outputs, 16), items = GATED ? tiles / 2 : PSI_DIVIDE_UP(tiles, TILES);
  u8* ring = shared + warp * stages * stage_bytes;
  u64* arrivals = (u64*)(shared + at.arrivals) + warp * stages;
  auto tile_of = [&](i32 item, int m) { return GATED ? item + m * items : min(item * TILES + m, tiles - 1); };

  /* Lane 0: units from `unit` on of an item's tiles to a stage. */
  auto fetch_weights = [&](i32 item, i32 unit, i32 stage) {
    const i32 count = min(UNITS, end - unit);
    u8* to = ring + stage * stage_bytes;
    u32 bytes = STAGED ? (u32)(count * unit_row_bytes) : 0;
    W::pieces(p.units, unit, count, UNITS, [&](i64, i64, i32 size) { bytes += TILES * (u32)size; });
    bulk_expect(arrivals + stage, bytes);
#pragma unroll
    for (int m = 0; m < TILES; m++) {
      const u8* tile = p.w + (i64)tile_of(item, m) * W::tile_bytes(p.units);
      W::pieces(p.units, unit, count, UNITS, [&](i64 from, i64 place, i32 size) { bulk_copy(to + m * TILE + place, tile + from, (u32)size, arrivals + stage); });
    }
  };
  auto fetch_rows = [&](i32 unit, i32 stage) {
    bulk_copy(ring + stage * stage_bytes + TILES * TILE, (const u8*)p.rounded + (i64)unit * unit_row_bytes, (u32)(min(UNITS, end - unit) * unit_row_bytes), arrivals + stage);
  };
  i32 next_item = blockIdx.x, next_unit = first; /* what is fetched next */
  auto advance = [&] {
    next_unit += UNITS;
    if (next_unit >= end) next_unit = first, next_item += gridDim.x;
  };

  if (lane == 0 && first < end) {
    for (i32 s = 0; s < stages; s++) bulk_start(arrivals + s);
    i32 item = next_item, unit = next_unit;
    for (i32 s = 0; s < stages && next_item < items; s++, advance()) fetch_weights(next_item, next_unit, s);
    if (!p.ready) wait_for_inputs();
    if (STAGED)
      for (i32 s = 0; s < stages && item < items; s++) {
        fetch_rows(unit, s);
        unit += UNITS;
        if (unit >= end) unit = first, item += gridDim.x;
      }
  } else if (!p.ready) {
    wait_for_inputs();
  }
  if (!STAGED) stage_floats<W, 12>(p, shared + at.rows, row_bytes, first, end);
  __syncwarp(); /* a warp reads only what it wrote; the arrivals are made */

  i32 stage = 0, parity = 0, set = 0;
#pragma unroll 1
  for (i32 item = blockIdx.x; item < items; item += gridDim.x, set ^= 1) {
    float sum[TILES][4] = {};
#pragma unroll 1
    for (i32 base = first; base < end; base += UNITS) {
      bulk_wait(arrivals + stage, (u32)parity);
      const u8* here = ring + stage * stage_bytes;
#pragma unroll
      for (int u = 0; u < UNITS; u++) {
        if (base + u >= end) break;
        typename W::Raw raw[TILES];
#pragma unroll
        for (int m = 0; m < TILES; m++) W::template load<true>(raw[m], here + m * TILE, UNITS, u, lane);
#pragma unroll
        for (int part = 0; part < W::PARTS; part++) {
          const i32 row = min(lane % 8, p.rows - 1);
          u32 b[8];
          if constexpr (STAGED) {
            const u8* rows = here + TILES * TILE + (u * W::PARTS + part) * p.rows * 128 + row * 128;
            load_matrix_x4(b, rows + ((lane / 8 ^ row) << 4));
            load_matrix_x4(b + 4, rows + (((lane / 8 + 4) ^ row) << 4));
          } else {
            const u8* rows = shared + at.rows + row * row_bytes + lane / 8 * 16 + ((base + u) * W::PARTS + part) * 128;
            load_matrix_x4(b, rows);
            load_matrix_x4(b + 4, rows + 64);
          }
#pragma unroll
          for (int step = 0; step < 4; step++)
#pragma unroll
            for (int m = 0; m < TILES; m++) {
              u32 a[4];
              W::fragment(raw[m], step, a);
              mma_bf16(sum[m], a, b + 2 * step);
            }
        }
      }
      __syncwarp(); /* all have read the stage */
      if (lane == 0 && next_item < items) {
        fetch_weights(next_item, next_unit, stage);
        if (STAGED) fetch_rows(next_unit, stage);
        advance();
      }
      if (++stage == stages) stage = 0, parity ^= 1;
    }

    float* sums = (float*)(shared + at.sums) + set * (MATMUL_SEGMENTS * TILES * p.rows * 16);
#pragma unroll
    for (int m = 0; m < TILES; m++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const i32 row = lane % 4 * 2 + i % 2;
        if (row < p.rows) sums[((warp * TILES + m) * p.rows + row) * 16 + lane / 4 + i / 2 * 8] = sum[m][i];
      }
    __syncthreads(); /* the sums are there, and those of the item before are read */
    const i32 row = threadIdx.x / 16 % 8, output = threadIdx.x % 16, m = threadIdx.x / 128;
    if (row >= p.rows || m >= (GATED ? 1 : TILES)) continue;
    auto total = [&](i32 tile) {
      const float* from = sums + (tile * p.rows + row) * 16 + output;
      float t = from[0];
#pragma unroll 1
      for (i32 segment = 1; segment < p.segments; segment++) t += from[segment * TILES * p.rows * 16];
      const i32 n = tile_of(item, tile) * 16 + output;
      return p.bias && n < p.outputs ? t + p.bias[n] : t;
    };
    if constexpr (GATED) {
      p.y[(i64)row * (p.outputs / 2) + item * 16 + output] = gated_activation(gate.kind, total(0), total(1), gate.alpha, gate.limit);
    } else {
      const i32 n = (item * TILES + m) * 16 + output;
      if (n < p.outputs) p.y[(i64)row * p.outputs + n] = total(m);
    }
  }
  if (p.ready) wait_for_inputs();
}

/* Rows of x for the stages: [unit][part][row][64] bf16. A thread makes eight elements. */
template <int PARTS>
__global__ void round_units_kernel(u16* rounded, const float* x, i32 rows, i32 units, i32 columns) {
  let_next_start();
  wait_for_inputs();
  const i32 thread = blockIdx.x * blockDim.x + threadIdx.x, chunk = thread % 8, row = thread / 8 % rows, unit = thread / 8 / rows;
  if (unit >= units) return;
  const float* from = x + (i64)row * columns + unit * 64 + chunk * 8;
  const float4 a = *(const float4*)from, b = *(const float4*)(from + 4);
  const float v[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
  u32 near[4], rest[4];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    near[i] = pack_bf16(v[2 * i], v[2 * i + 1]);
    rest[i] = PARTS == 2 ? pack_rests(v[2 * i], v[2 * i + 1], near[i]) : 0;
  }
  u16* to = rounded + ((i64)unit * PARTS * rows + row) * 64 + (chunk ^ row % 8) * 8;
  *(uint4*)to = make_uint4(near[0], near[1], near[2], near[3]);
  if (PARTS == 2) *(uint4*)(to + rows * 64) = make_uint4(rest[0], rest[1], rest[2], rest[3]);
}

/* Stages of the ring that shared memory has room for; fewer than 2: this form does not apply. */
template <class W, int TILES, bool STAGED>
i32 matmul_ring_stages(const MatmulArguments& p) {
  const bool fits = bulk_copies() && p.rows <= MATMUL_RING_ROWS && p.columns % 64 == 0 && (uintptr_t)p.x % 16 == 0 && (!W::RECORDS || p.segment_units % MATMUL_RING_UNITS<STAGED> == 0);
  i32 stages = fits ? MATMUL_MOST_STAGES : 0;
  while (stages > 1 && matmul_ring_places<W, TILES, STAGED>(p.units, p.rows, stages).bytes > min((i64)MATMUL_RING_SHARED, device.largest_shared)) stages--;
  return stages;
}

template <class W, int TILES, bool STAGED, bool GATED>
i32 launch_matmul_ring(const char* op, MatmulArguments p, u16* rounded, const ProductGate& gate, i32 stages) {
  if (STAGED) {
    p.rounded = rounded;
    p.ready = false;
    const i32 threads = p.units * p.rows * 8;
    PSI_TRY(launch(op, round_units_kernel<W::PARTS>, dim3((unsigned)PSI_DIVIDE_UP(threads, 128)), dim3(128), 0, rounded, p.x, p.rows, p.units, p.columns));
  }
  const i32 tiles = PSI_DIVIDE_UP(p.outputs, 16), items = PSI_DIVIDE_UP(tiles, TILES);
  const i32 bytes = matmul_ring_places<W, TILES, STAGED>(p.units, p.rows, stages).bytes;
  return launch(op, matmul_ring_kernel<W, TILES, STAGED, GATED>, dim3((unsigned)min(items, 2 * device.multiprocessors)), dim3(MATMUL_THREADS), (size_t)bytes, p, gate, stages);
}

/*
 * A dense MLP or a shared expert beside the routed ones: psi_moe_glu, then psi_matmul_glu of what was there before that, psi_moe_matmul,
 * psi_matmul of what the second made. Each lets the next begin when its own inputs are there, so that the second and the last
 * need not wait for the one before them until they end. What the second made, and the launch of the third; what psi_moe_glu
 * made, which the second may therefore not read (moe_launch.cuh).
 */
extern const void *shared_rows, *gated_rows;
extern u64 shared_launch, shared_after;

/* What a launcher is called with, as the kernels take it. */
inline MatmulArguments matmul_arguments(void* y, const void* x, const void* w, const void* bias, i32 rows, i32 outputs, i32 columns) {
  MatmulArguments p = {(float*)y, (const float*)x, nullptr, (const u8*)w, (const float*)bias, rows, outputs, columns, PSI_DIVIDE_UP(columns, 64), 0, 0, false};
  p.segment_units = PSI_DIVIDE_UP(p.units, MATMUL_SEGMENTS);
  p.segments = PSI_DIVIDE_UP(p.units, p.segment_units);
  return p;
}

}  // namespace psi
