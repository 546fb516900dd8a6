/*
 * On Hopper one or two rows whose tiles come by one bulk copy each: what the form of matmul.cu and this one share, and this one, for
 * a matrix of so few outputs that its blocks are all there at once. What does not depend on x is done before x is there: HELD units
 * of a warp wait as fragments, in registers. The sums of matmul.cu's other forms, in their order.
 */
#pragma once
#include "matmul.cuh"

namespace psi {

constexpr i32 BULK_MOST_SHARED = 110 << 10; /* two blocks to a multiprocessor */

/* In shared memory: the tile, the rows of x, the segments' sums, the copy's arrival. */
struct BulkPlaces {
  i32 rows, sums, arrival, bytes;
};
template <class W>
__host__ __device__ BulkPlaces bulk_places(i32 units, i32 rows) {
  BulkPlaces b;
  b.rows = (i32)W::tile_bytes(units);
  b.sums = b.rows + rows * matmul_row_bytes(units * W::PARTS);
  b.arrival = b.sums + MATMUL_SEGMENTS * rows * 64;
  b.bytes = b.arrival + 16;
  return b;
}

/* Starts the block's copy; its arrival, which all threads may wait for. */
__device__ __forceinline__ u64* ask_for_tile(const MatmulArguments& p, u8* shared, const BulkPlaces& at) {
  u64* arrival = (u64*)(shared + at.arrival);
  if (threadIdx.x == 0) {
    bulk_start(arrival);
    bulk_expect(arrival, (u32)at.rows);
    bulk_copy(shared, p.w + (i64)blockIdx.x * at.rows, (u32)at.rows, arrival);
  }
  __syncthreads();
  return arrival;
}

/* y of the block's tile from each warp's sums of its segment, by way of `sums` [segment][row][16]. */
__device__ __forceinline__ void add_segments(const MatmulArguments& p, float* sums, const float* sum) {
  const i32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const i32 row = lane % 4 * 2 + i % 2;
    if (row < p.rows) sums[(warp * p.rows + row) * 16 + lane / 4 + i / 2 * 8] = sum[i];
  }
  __syncthreads();
  if (p.ready) wait_for_inputs();
  const i32 row = threadIdx.x / 16, output = blockIdx.x * 16 + threadIdx.x % 16;
  if (row >= p.rows || output >= p.outputs) return;
  const float* from = sums + row * 16 + threadIdx.x % 16;
  float total = from[0];
#pragma unroll 1
  for (int segment = 1; segment < p.segments; segment++) total += from[segment * p.rows * 16];
  p.y[(i64)row * p.outputs + output] = p.bias ? total + p.bias[output] : total;
}

/* A unit's products with the rows of x: all steps with their first part, then with the second. */
template <class W>
__device__ __forceinline__ void multiply_unit(float* sum, const u32 (*a)[4], const u8* fragments, i32 unit) {
#pragma unroll
  for (int part = 0; part < W::PARTS; part++) {
    const i32 at = (unit * W::PARTS + part) * 128;
    u32 b[8];
    load_matrix_x4(b, fragments + at);
    load_matrix_x4(b + 4, fragments + at + 64);
#pragma unroll
    for (int step = 0; step < 4; step++) mma_bf16(sum, a[step], b + 2 * step);
  }
}

template <class W, int HELD>
__global__ void __launch_bounds__(MATMUL_THREADS, HELD > 4 ? 1 : 2) matmul_held_kernel(const __grid_constant__ MatmulArguments p) {
  PSI_DYNAMIC_SHARED(shared);
  let_next_start();
  const BulkPlaces at = bulk_places<W>(p.units, p.rows);
  u64* arrival = ask_for_tile(p, shared, at);
  const i32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, row_bytes = matmul_row_bytes(p.units * W::PARTS);
  const i32 first = min(warp * p.segment_units, p.units), end = min(first + p.segment_units, p.units);
  const auto fragments_of = [&](i32 unit, u32 (*a)[4]) {
    typename W::Raw raw;
    W::template load<true>(raw, shared, p.units, unit, lane);
#pragma unroll
    for (int step = 0; step < 4; step++) W::fragment(raw, step, a[step]);
  };
  bulk_wait(arrival);
  u32 held[HELD][4][4];
#pragma unroll
  for (int u = 0; u < HELD; u++)
    if (first + u < end) fragments_of(first + u, held[u]);
  if (!p.ready) wait_for_inputs();
  stage_floats<W, 4>(p, shared + at.rows, row_bytes, first, end);
  __syncwarp(); /* a warp reads only what it wrote */

  float sum[4] = {};
  const u8* fragments = shared + at.rows + min(lane % 8, p.rows - 1) * row_bytes + lane / 8 * 16;
#pragma unroll
  for (int u = 0; u < HELD; u++)
    if (first + u < end) multiply_unit<W>(sum, held[u], fragments, first + u);
#pragma unroll 1
  for (i32 unit = first + HELD; unit < end; unit++) {
    u32 a[4][4];
    fragments_of(unit, a);
    multiply_unit<W>(sum, a, fragments, unit);
  }
  add_segments(p, (float*)(shared + at.sums), sum);
}

/* At most two tiles to a multiprocessor; `bytes` of shared memory. A block that has one for itself may take more registers. */
template <class W>
i32 launch_matmul_held(const MatmulArguments& p, i32 bytes) {
  const i32 tiles = PSI_DIVIDE_UP(p.outputs, 16);
  const bool alone = p.segment_units > 4 && tiles <= device.multiprocessors;
  return launch("psi_matmul", alone ? matmul_held_kernel<W, 8> : matmul_held_kernel<W, 4>, dim3((unsigned)tiles), dim3(MATMUL_THREADS), (size_t)bytes, p);
}

}  // namespace psi
