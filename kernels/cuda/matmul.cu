/*
 * y[t, n] = sum_k x[t, k] w[n, k] (+ bias[n]), x and y f32, w packed (weights.cuh).
 *
 * - Up to 16 rows (generation): a block reads a tile of 16 outputs once, to registers, or on Hopper for one or two rows to
 *   shared memory. Its 8 warps take a segment of the columns each, weights are asked for before the step's inputs are
 *   ready, and 16 outputs x 8 rows are multiplied at a time; the segments are added in order through shared memory.
 * - On Hopper one or two rows of few outputs: matmul_held.cuh; 3 to 8 rows, and fewer where a tile is too long for that: matmul_ring.cuh.
 * - Up to 64 rows of a matrix that has too few outputs to fill the device with product.h's tiles: the same with 32 outputs
 *   x 32 rows to a block; x, rounded to bf16, passes through a ring in shared memory, a unit of 64 columns at a time.
 * - Else: x rounded to bf16, then product.h. All with the same bits.
 * - BF16 and F16 weights: x is not rounded but split in two parts of bf16 (round.cuh), multiplied one after the other.
 * - F32 weights (routers): f32 throughout. 256 threads sum every 256th group of 4 columns each; a tree adds the lanes of a
 *   warp, then the warps from the first to the last. One or 8 x 8 values per block, always in this order.
 */
#include "matmul_held.cuh"
#include "matmul_ring.cuh"

namespace psi {

constexpr int MATMUL_STREAMED_ROWS = 16;

/* Units under way per warp: all of a segment, as far as registers go. */
template <class W, int GROUPS>
constexpr int matmul_depth() {
  constexpr int fit = (GROUPS == 1 ? 200 : 160) / (int)sizeof(typename W::Raw);
  return fit < 1 ? 1 : fit > 6 ? 6 : fit;
}

/* The same from rows that are bf16 already. */
template <class W>
__device__ __forceinline__ void stage_rounded(const MatmulArguments& p, u8* shared, i32 row_bytes, i32 first, i32 end) {
  const i32 lane = threadIdx.x % 32, pitch = rounded_columns<W>(p.columns);
  for (i32 row = 0; row < p.rows; row++)
    for (i32 column = first * W::PARTS * 64 + lane * 8; column < end * W::PARTS * 64; column += 256) {
      bool valid = column < pitch;
      copy_async16(shared + row * row_bytes + column * 2, valid ? p.rounded + (i64)row * pitch + column : p.rounded, valid);
    }
  copy_async_commit();
  copy_async_wait<0>();
}

template <class W, int GROUPS>
__global__ void __launch_bounds__(MATMUL_THREADS, GROUPS == 1 ? 3 : 2) matmul_stream_kernel(const __grid_constant__ MatmulArguments p) {
  constexpr int DEPTH = matmul_depth<W, GROUPS>();
  PSI_DYNAMIC_SHARED(shared);
  let_next_start();
  const i32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, row_bytes = matmul_row_bytes(p.units * W::PARTS);
  const i32 first = min(warp * p.segment_units, p.units), end = min(first + p.segment_units, p.units);
  const u8* tile = p.w + (i64)blockIdx.x * W::tile_bytes(p.units);
  typename W::Raw raw[DEPTH];
#pragma unroll
  for (int d = 0; d < DEPTH; d++)
    if (first + d < end) W::load(raw[d], tile, p.units, first + d, lane);
  wait_for_inputs();
  if (GROUPS == 1) stage_floats<W>(p, shared, row_bytes, first, end);
  else stage_rounded<W>(p, shared, row_bytes, first, end);
  __syncwarp(); /* a warp reads only what it wrote */

  float sum[GROUPS][4] = {};
  const u8* fragments[GROUPS]; /* ldmatrix: lane's row, the last one past the end, and its 8 of 32 columns */
#pragma unroll
  for (int g = 0; g < GROUPS; g++) fragments[g] = shared + min(g * 8 + lane % 8, p.rows - 1) * row_bytes + lane / 8 * 16;
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
        for (int g = 0; g < GROUPS; g++) {
          load_matrix_x4(b[g], fragments[g] + at);
          load_matrix_x4(b[g] + 4, fragments[g] + at + 64);
        }
#pragma unroll
        for (int step = 0; step < 4; step++) {
          u32 a[4];
          W::fragment(raw[d], step, a);
#pragma unroll
          for (int g = 0; g < GROUPS; g++) mma_bf16(sum[g], a, b[g] + 2 * step);
        }
      }
      if (unit + DEPTH < end) W::load(raw[d], tile, p.units, unit + DEPTH, lane);
    }
  }

  float* sums = (float*)(shared + p.rows * row_bytes); /* [segment][row][16] */
#pragma unroll
  for (int g = 0; g < GROUPS; g++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      i32 row = g * 8 + lane % 4 * 2 + i % 2;
      if (row < p.rows) sums[(warp * p.rows + row) * 16 + lane / 4 + i / 2 * 8] = sum[g][i];
    }
  __syncthreads();
  const i32 row = threadIdx.x / 16, output = blockIdx.x * 16 + threadIdx.x % 16;
  if (row >= p.rows || output >= p.outputs) return;
  const float* from = sums + row * 16 + threadIdx.x % 16;
  float total = from[0];
  for (int segment = 1; segment < p.segments; segment++) total += from[segment * p.rows * 16];
  p.y[(i64)row * p.outputs + output] = p.bias ? total + p.bias[output] : total;
}

/* ---- one or two rows on Hopper: the tile comes by one bulk copy, which needs no registers and little code ---- */

template <class W>
__global__ void __launch_bounds__(MATMUL_THREADS) matmul_bulk_kernel(const __grid_constant__ MatmulArguments p) {
  PSI_DYNAMIC_SHARED(shared);
  let_next_start();
  const BulkPlaces at = bulk_places<W>(p.units, p.rows);
  u64* arrival = ask_for_tile(p, shared, at);
  const i32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, row_bytes = matmul_row_bytes(p.units * W::PARTS);
  const i32 first = min(warp * p.segment_units, p.units), end = min(first + p.segment_units, p.units);
  if (!p.ready) wait_for_inputs();
  stage_floats<W>(p, shared + at.rows, row_bytes, first, end);
  __syncwarp(); /* a warp reads only what it wrote */
  bulk_wait(arrival);

  float sum[4] = {};
  const u8* fragments = shared + at.rows + min(lane % 8, p.rows - 1) * row_bytes + lane / 8 * 16;
#pragma unroll 1
  for (i32 unit = first; unit < end; unit++) {
    typename W::Raw raw;
    W::template load<true>(raw, shared, p.units, unit, lane);
#pragma unroll
    for (int part = 0; part < W::PARTS; part++) {
      const i32 at_part = (unit * W::PARTS + part) * 128;
      u32 b[8];
      load_matrix_x4(b, fragments + at_part);
      load_matrix_x4(b + 4, fragments + at_part + 64);
#pragma unroll
      for (int step = 0; step < 4; step++) {
        u32 a[4];
        W::fragment(raw, step, a);
        mma_bf16(sum, a, b + 2 * step);
      }
    }
  }
  add_segments(p, (float*)(shared + at.sums), sum);
}

/* ---- 17 to 64 rows ---- */

constexpr int WIDE_ROWS = 32, WIDE_OUTPUTS = 32, WIDE_STAGES = 3, WIDE_STREAMED_ROWS = 64;
constexpr int WIDE_STAGE = WIDE_ROWS * 128;    /* bytes: a part of a unit of every row, 16-byte chunk c of row r at place c ^ r % 8 */
constexpr int WIDE_PITCH = WIDE_OUTPUTS + 4;   /* floats of a row of sums, shifted against bank conflicts */
constexpr size_t WIDE_SHARED = MATMUL_SEGMENTS * WIDE_STAGES * WIDE_STAGE;
constexpr int WIDE_BLOCKS = 4; /* per multiprocessor: with more, product.h's larger tiles fill the device too, and read x less often */
static_assert(MATMUL_SEGMENTS * WIDE_ROWS * WIDE_PITCH * sizeof(float) <= WIDE_SHARED, "the sums take the ring's place");

/* Units of both tiles under way per warp, as far as registers go beside 32 sums. */
template <class W>
constexpr int wide_depth() {
  constexpr int fit = 256 / (2 * (int)sizeof(typename W::Raw));
  return fit < 1 ? 1 : fit > 6 ? 6 : fit;
}

/* Starts copying a part of a unit of `rows` rows of x; zeros past the last row and column. */
template <class W>
__device__ __forceinline__ void copy_unit(const MatmulArguments& p, u8* stage, i32 first_row, i32 rows, i32 part) {
  const i32 lane = threadIdx.x % 32, column = part * 64 + lane % 8 * 8, pitch = rounded_columns<W>(p.columns);
#pragma unroll
  for (int i = 0; i < WIDE_ROWS / 4; i++) {
    const i32 row = lane / 8 + i * 4;
    const bool valid = row < rows && column < pitch;
    copy_async16(stage + row * 128 + ((lane ^ row) % 8 << 4), valid ? p.rounded + (i64)(first_row + row) * pitch + column : p.rounded, valid);
  }
}

template <class W>
__global__ void __launch_bounds__(MATMUL_THREADS, 2) matmul_wide_kernel(const __grid_constant__ MatmulArguments p) {
  constexpr int DEPTH = wide_depth<W>();
  PSI_DYNAMIC_SHARED(shared);
  let_next_start();
  const i32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const i32 first = min(warp * p.segment_units, p.units), end = min(first + p.segment_units, p.units);
  const i32 first_row = blockIdx.y * WIDE_ROWS, rows = min(WIDE_ROWS, p.rows - first_row), tiles = PSI_DIVIDE_UP(p.outputs, 16);
  const u8* weights[2]; /* past the end the last tile, whose results are not stored */
#pragma unroll
  for (int m = 0; m < 2; m++) weights[m] = p.w + (i64)min((i32)blockIdx.x * 2 + m, tiles - 1) * W::tile_bytes(p.units);
  typename W::Raw raw[DEPTH][2];
#pragma unroll
  for (int d = 0; d < DEPTH; d++)
    if (first + d < end)
#pragma unroll
      for (int m = 0; m < 2; m++) W::load(raw[d][m], weights[m], p.units, first + d, lane);
  wait_for_inputs();
  u8* ring = shared + warp * WIDE_STAGES * WIDE_STAGE; /* the warp's own */
#pragma unroll
  for (int s = 0; s < WIDE_STAGES - 1; s++) {
    if (first * W::PARTS + s < end * W::PARTS) copy_unit<W>(p, ring + s * WIDE_STAGE, first_row, rows, first * W::PARTS + s);
    copy_async_commit();
  }

  float sum[2][WIDE_ROWS / 8][4] = {};
  const i32 matrix = (lane / 16 * 8 + lane % 8) * 128, chunk = lane / 8 % 2 ^ lane % 8; /* ldmatrix: lane's row and its chunk of step 0 */
  i32 reading = 0, filling = WIDE_STAGES - 1;
#pragma unroll 1
  for (i32 base = first; base < end; base += DEPTH) {
#pragma unroll
    for (int d = 0; d < DEPTH; d++) {
      const i32 unit = base + d;
      if (unit >= end) break;
#pragma unroll
      for (int part = 0; part < W::PARTS; part++) {
        copy_async_wait<WIDE_STAGES - 2>();
        __syncwarp(); /* the part is there for all lanes, and all have read the one before */
        const i32 next = unit * W::PARTS + part + WIDE_STAGES - 1;
        if (next < end * W::PARTS) copy_unit<W>(p, ring + filling * WIDE_STAGE, first_row, rows, next);
        copy_async_commit();
        const u8* stage = ring + reading * WIDE_STAGE + matrix;
        filling = reading;
        reading = reading + 1 == WIDE_STAGES ? 0 : reading + 1;
#pragma unroll
        for (int step = 0; step < 4; step++) {
          u32 a[2][4];
#pragma unroll
          for (int m = 0; m < 2; m++) W::fragment(raw[d][m], step, a[m]);
#pragma unroll
          for (int pair = 0; pair < WIDE_ROWS / 16; pair++) {
            if (pair > 0 && pair * 16 >= rows) break;
            u32 b[4];
            load_matrix_x4(b, stage + pair * 16 * 128 + ((chunk ^ step * 2) << 4));
#pragma unroll
            for (int m = 0; m < 2; m++) {
              mma_bf16(sum[m][2 * pair], a[m], b);
              mma_bf16(sum[m][2 * pair + 1], a[m], b + 2);
            }
          }
        }
      }
      if (unit + DEPTH < end)
#pragma unroll
        for (int m = 0; m < 2; m++) W::load(raw[d][m], weights[m], p.units, unit + DEPTH, lane);
    }
  }

  __syncthreads();
  float* sums = (float*)shared; /* [segment][row][output] */
#pragma unroll
  for (int m = 0; m < 2; m++)
#pragma unroll
    for (int g = 0; g < WIDE_ROWS / 8; g++)
#pragma unroll
      for (int i = 0; i < 4; i++)
        sums[(warp * WIDE_ROWS + g * 8 + lane % 4 * 2 + i % 2) * WIDE_PITCH + m * 16 + lane / 4 + i / 2 * 8] = sum[m][g][i];
  __syncthreads();
  const i32 output = blockIdx.x * WIDE_OUTPUTS + lane;
  if (output >= p.outputs) return;
  const float bias = p.bias ? p.bias[output] : 0.0f;
#pragma unroll
  for (i32 row = warp; row < rows; row += MATMUL_SEGMENTS) {
    const float* from = sums + row * WIDE_PITCH + lane;
    float total = from[0];
    for (int segment = 1; segment < p.segments; segment++) total += from[segment * WIDE_ROWS * WIDE_PITCH];
    p.y[(i64)(first_row + row) * p.outputs + output] = p.bias ? total + bias : total;
  }
}

template <int PARTS>
__global__ void round_kernel(u16* rounded, const float* x, i64 rows, i32 columns) {
  let_next_start();
  wait_for_inputs();
  round_eight<PARTS>(rounded, x, rows, columns, (i64)blockIdx.x * blockDim.x + threadIdx.x);
}

template <class W>
i32 round_rows(u16* rounded, const MatmulArguments& p) {
  const i64 threads = rounding_threads(p.rows, p.columns, W::PARTS);
  return launch("psi_matmul", round_kernel<W::PARTS>, dim3((unsigned)PSI_DIVIDE_UP(threads, 256)), dim3(256), 0, rounded, p.x, (i64)p.rows, p.columns);
}

/* ---- F32 weights ---- */

constexpr int FLOAT_THREADS = 256, FLOAT_WARPS = FLOAT_THREADS / 32;

template <int ROWS, int OUTPUTS>
__global__ void __launch_bounds__(FLOAT_THREADS) matmul_float_kernel(float* y, const float* x, const float* w, const float* bias, i32 rows, i32 outputs, i32 columns) {
  __shared__ float sums[ROWS * OUTPUTS][FLOAT_WARPS];
  let_next_start();
  wait_for_inputs();
  const i32 row = blockIdx.y * ROWS, output = blockIdx.x * OUTPUTS;
  float sum[ROWS][OUTPUTS] = {};
  const bool whole = columns % 4 == 0 && (uintptr_t)x % 16 == 0;
  for (i32 k = threadIdx.x * 4; k < columns; k += 4 * FLOAT_THREADS) {
    float xs[ROWS][4], ws[OUTPUTS][4];
    auto take = [&](float* to, const float* from) {
      if (whole) {
        float4 v = *(const float4*)(from + k);
        to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
      } else {
        for (int i = 0; i < 4; i++) to[i] = k + i < columns ? from[k + i] : 0.0f;
      }
    };
#pragma unroll
    for (int r = 0; r < ROWS; r++) take(xs[r], x + (i64)min(row + r, rows - 1) * columns);
#pragma unroll
    for (int o = 0; o < OUTPUTS; o++) take(ws[o], w + (i64)min(output + o, outputs - 1) * columns);
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
      for (int o = 0; o < OUTPUTS; o++)
#pragma unroll
        for (int i = 0; i < 4; i++) sum[r][o] = fmaf(xs[r][i], ws[o][i], sum[r][o]);
  }
#pragma unroll
  for (int r = 0; r < ROWS; r++)
#pragma unroll
    for (int o = 0; o < OUTPUTS; o++) {
      float v = warp_sum(sum[r][o]);
      if (threadIdx.x % 32 == 0) sums[r * OUTPUTS + o][threadIdx.x / 32] = v;
    }
  __syncthreads();
  for (i32 i = threadIdx.x; i < ROWS * OUTPUTS; i += FLOAT_THREADS) {
    const i32 r = row + i / OUTPUTS, o = output + i % OUTPUTS;
    if (r >= rows || o >= outputs) continue;
    float v = sums[i][0];
    for (int s = 1; s < FLOAT_WARPS; s++) v += sums[i][s];
    y[(i64)r * outputs + o] = bias ? v + bias[o] : v;
  }
}

i32 float_matmul(float* y, const float* x, const float* w, const float* bias, i32 rows, i32 outputs, i32 columns) {
  if (rows < 8)
    return launch("psi_matmul", matmul_float_kernel<1, 1>, dim3((unsigned)outputs, (unsigned)rows), dim3(FLOAT_THREADS), 0, y, x, w, bias, rows, outputs, columns);
  const dim3 grid((unsigned)PSI_DIVIDE_UP(outputs, 8), (unsigned)PSI_DIVIDE_UP(rows, 8));
  return launch("psi_matmul", matmul_float_kernel<8, 8>, grid, dim3(FLOAT_THREADS), 0, y, x, w, bias, rows, outputs, columns);
}

/* ---- choice ---- */

template <class W>
i32 coded_matmul(MatmulArguments p, u16* rounded) {
  const size_t shared = (size_t)p.rows * (matmul_row_bytes(p.units * W::PARTS) + MATMUL_SEGMENTS * 64);
  const bool whole = p.columns % 8 == 0 && (uintptr_t)p.x % 16 == 0; /* rows of x are read 16 bytes at a time */
  const bool streams = p.rows <= MATMUL_STREAMED_ROWS && whole && (i64)shared <= device.largest_shared;
  p.rounded = rounded;
  if (bulk_copies() && p.rows <= MATMUL_FLOAT_ROWS) {
    const i32 bytes = bulk_places<W>(p.units, p.rows).bytes;
    const bool fits = bytes <= BULK_MOST_SHARED && bytes <= device.largest_shared; /* some devices after Hopper have less */
    const i32 tiles = PSI_DIVIDE_UP(p.outputs, 16);
    if (streams && fits && tiles <= 2 * device.multiprocessors) return launch_matmul_held<W>(p, bytes);
    if (streams && fits) return launch("psi_matmul", matmul_bulk_kernel<W>, dim3((unsigned)tiles), dim3(MATMUL_THREADS), (size_t)bytes, p);
    const i32 stages = matmul_ring_stages<W, 1, false>(p);
    if (stages > 1) return launch_matmul_ring<W, 1, false, false>("psi_matmul", p, rounded, {-1, 0, 0}, stages);
  } else if (bulk_copies() && p.rows <= MATMUL_RING_ROWS) {
    constexpr int TOGETHER = 2; /* tiles of an item: rows of x come once for both */
    const i32 stages = matmul_ring_stages<W, TOGETHER, true>(p);
    if (stages > 1) return launch_matmul_ring<W, TOGETHER, true, false>("psi_matmul", p, rounded, {-1, 0, 0}, stages);
  }
  if (!streams || p.rows > 8) PSI_TRY(round_rows<W>(rounded, p));
  const dim3 wide((unsigned)PSI_DIVIDE_UP(p.outputs, WIDE_OUTPUTS), (unsigned)PSI_DIVIDE_UP(p.rows, WIDE_ROWS));
  if (p.rows > MATMUL_STREAMED_ROWS && p.rows <= WIDE_STREAMED_ROWS && whole && (i64)WIDE_SHARED <= device.largest_shared &&
      (i64)wide.x * wide.y <= WIDE_BLOCKS * (i64)device.multiprocessors)
    return launch("psi_matmul", matmul_wide_kernel<W>, wide, dim3(MATMUL_THREADS), WIDE_SHARED, p);
  if (!streams) return product_dense<W>("psi_matmul", p.y, rounded, p.w, p.bias, p.rows, p.outputs, p.columns);
  const dim3 grid((unsigned)PSI_DIVIDE_UP(p.outputs, 16)), block(MATMUL_THREADS);
  if (p.rows > 8) return launch("psi_matmul", matmul_stream_kernel<W, 2>, grid, block, shared, p);
  return launch("psi_matmul", matmul_stream_kernel<W, 1>, grid, block, shared, p);
}

}  // namespace psi

PSI_API i32 psi_matmul(void* y, const void* x, const void* w, const void* bias, void* scratch, i32 rows, i32 outputs, i32 columns, i32 dtype, f64 scratch_bytes) {
  using namespace psi;
  if (!y || !x || !w) return fail(PSI_INVALID, "[psi_matmul] expected non-null pointers.");
  if (rows < 0 || outputs < 1 || columns < 1)
    return fail(PSI_INVALID, "[psi_matmul] expected rows >= 0, outputs >= 1, columns >= 1, got %d, %d, %d.", rows, outputs, columns);
  if (!(dtype & PSI_PACKED)) return fail(PSI_INVALID, "[psi_matmul] expected packed weights (dtype | %d), got dtype %d. Use psi_pack.", PSI_PACKED, dtype);
  if ((uintptr_t)w % 64 != 0) return fail(PSI_INVALID, "[psi_matmul] expected weights aligned to 64 bytes.");
  const i32 id = dtype & ~PSI_PACKED;
  const TypeInfo* type;
  PSI_TRY(check_weight_type("psi_matmul", id, columns, &type));
  if (rows == 0) return PSI_OK;
  if (id == F32) return float_matmul((float*)y, (const float*)x, (const float*)w, (const float*)bias, rows, outputs, columns);
  const f64 needed = rounded_bytes(id, rows, columns) + 64;
  if (!scratch || !(scratch_bytes >= needed))
    return fail(PSI_INVALID, "[psi_matmul] expected %.0f bytes of scratch, got %.0f.", needed, scratch ? scratch_bytes : 0);
  MatmulArguments p = matmul_arguments(y, x, w, bias, rows, outputs, columns);
  p.ready = rows <= MATMUL_FLOAT_ROWS && shared_after == launches && shared_rows == x;
  u16* rounded = (u16*)(((uintptr_t)scratch + 15) & ~(uintptr_t)15);
  return with_weight_type("psi_matmul", id, [&](auto w) { return coded_matmul<decltype(w)>(p, rounded); });
}
