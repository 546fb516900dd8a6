/*
 * y[r, n] = sum_k x[row(r), k] w[n, k] (+ bias[n]) for many rows: x bf16, w packed (weights.cuh), y f32, sums in f32.
 *
 * A block computes tiles of outputs x rows, one after another. Weights go from device memory to registers and become
 * A fragments there; rows of x go through a ring of stages in shared memory, a stage being one unit of 64 elements of
 * all rows of the tile, 16-byte chunk c of row r at place c ^ r % 8. The finished tile passes through shared memory, so
 * that a row's outputs are stored side by side, with bias and gate applied on the way.
 *
 * Where x has two parts (round.cuh) a unit of weights has two of x, one after the other; units are those of x below.
 *
 * Order of sums: units of weights in at most 8 segments of ceil(units / 8); one chain of k16 products per segment; the segments'
 * sums added from the first to the last, then the bias.
 *
 * Here: what both kernels share, and the one of mma.sync, which every device has. product_wgmma.cuh: Hopper's.
 */
#pragma once
#include "glu.cuh"
#include "instructions.h"
#include "product.h"
#include "round.cuh"
#include "weights.cuh"

namespace psi {

constexpr int PRODUCT_UNIT = 64;                     /* columns of a unit */
constexpr int PRODUCT_ROW_BYTES = 2 * PRODUCT_UNIT;  /* of a row in a stage */
constexpr int PRODUCT_PAD = 4;                       /* floats after a row of the finished tile, against bank conflicts */

/* What is known of a product before any tile of it. */
struct ProductShape {
  i32 units, segment_units, weight_units;
  i32 tiles;        /* of 16 outputs, in one matrix */
  i32 output_tiles; /* tiles of the block's size */
  i64 tile_bytes, matrix_bytes;
};

/* With a gate half of a block's outputs are the gate's, the other half the same rows of up. */
template <class W>
__host__ __device__ ProductShape product_shape(const ProductArguments& p, int block_outputs) {
  ProductShape s;
  s.units = PSI_DIVIDE_UP(p.columns, PRODUCT_UNIT);
  s.weight_units = s.units / W::PARTS;
  s.segment_units = PSI_DIVIDE_UP(s.weight_units, 8) * W::PARTS;
  s.tiles = PSI_DIVIDE_UP(p.outputs, 16);
  s.output_tiles = PSI_DIVIDE_UP(p.outputs, block_outputs);
  s.tile_bytes = W::tile_bytes(s.weight_units);
  s.matrix_bytes = s.tiles * s.tile_bytes;
  return s;
}

/* The j-th 16 outputs of a block's output tile; past the end the last ones, whose results are not stored. */
__device__ inline i32 product_weight_tile(const ProductArguments& p, const ProductShape& s, i32 output_tile, int j, int block_tiles) {
  if (p.gate.kind < 0) return min(output_tile * block_tiles + j, s.tiles - 1);
  int half = block_tiles / 2, features = s.tiles / 2;
  return (j < half ? 0 : features) + min(output_tile * half + j % half, features - 1);
}

/* Up to a tile's number of rows that share a matrix: places first ... first + count - 1 of `sorted`, or rows of y. */
struct ProductRows {
  i32 matrix, first, count;
};

/* The block-th tile of rows, counted over all experts; false past the last. For whole warps. */
__device__ inline bool find_product_rows(const ProductArguments& p, i32 block, int size, ProductRows& found) {
  if (!p.groups.offsets) {
    found = {0, block * size, min(size, p.rows - block * size)};
    return found.count > 0;
  }
  int lane = threadIdx.x % 32;
  for (i32 base = 0; base < p.groups.experts; base += 32) {
    i32 e = base + lane;
    i32 begin = e < p.groups.experts ? p.groups.offsets[e] : 0;
    i32 end = e < p.groups.experts ? p.groups.offsets[e + 1] : 0;
    i32 blocks = PSI_DIVIDE_UP(end - begin, size), through = blocks;
    for (int distance = 1; distance < 32; distance *= 2) {
      i32 before = __shfl_up_sync(~0u, through, distance);
      if (lane >= distance) through += before;
    }
    unsigned beyond = __ballot_sync(~0u, block < through);
    if (beyond) {
      int owner = __ffs((int)beyond) - 1;
      i32 first = begin + (block - (through - blocks)) * size;
      found.matrix = base + owner;
      found.first = __shfl_sync(~0u, first, owner);
      found.count = min(size, __shfl_sync(~0u, end, owner) - found.first);
      return true;
    }
    block -= __shfl_sync(~0u, through, 31);
  }
  return false;
}

/* The row of x that the tile's row `at` reads; -1: none. */
__device__ inline i32 product_input_row(const ProductArguments& p, const ProductRows& rows, int at) {
  if (at >= rows.count) return -1;
  return p.groups.offsets ? p.groups.sorted[rows.first + at] / p.groups.used : rows.first + at;
}

/* A thread's part in filling stages: chunk threadIdx.x % 8 of every (THREADS / 8)-th row. */
template <int ROWS, int THREADS>
struct ProductInput {
  static constexpr int STEP = THREADS / 8, COUNT = PSI_DIVIDE_UP(ROWS, STEP);
  const u16* from[COUNT]; /* the chunk of the first unit */
  bool given[COUNT];

  __device__ void start(const ProductArguments& p, const ProductRows& rows) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      i32 row = product_input_row(p, rows, threadIdx.x / 8 + i * STEP);
      given[i] = row >= 0;
      from[i] = p.x + (i64)max(row, 0) * p.columns + threadIdx.x % 8 * 8;
    }
  }

  __device__ static u32 place() { return threadIdx.x / 8 * PRODUCT_ROW_BYTES + ((threadIdx.x ^ threadIdx.x / 8) % 8 << 4); }

  /* Zeros past the end of a row, and past the last one. */
  __device__ void copy(const ProductArguments& p, u8* stage, i32 unit) const {
    const i32 column = unit * PRODUCT_UNIT;
    const bool inside = column + (int)(threadIdx.x % 8) * 8 < p.columns;
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      if (ROWS % STEP != 0 && (int)threadIdx.x / 8 + i * STEP >= ROWS) break;
      copy_async16(stage + place() + i * STEP * PRODUCT_ROW_BYTES, from[i] + column, given[i] && inside);
    }
  }

  /* The same where rows of x are not whole chunks: element by element. */
  __device__ static void copy_ragged(const ProductArguments& p, const ProductRows& rows, u8* stage, i32 unit) {
    i32 column = unit * PRODUCT_UNIT + threadIdx.x % 8 * 8;
#pragma unroll 1
    for (int i = 0; i < COUNT; i++) {
      i32 own = product_input_row(p, rows, threadIdx.x / 8 + i * STEP);
      const u16* from = p.x + (i64)own * p.columns + column;
      i32 left = own >= 0 ? p.columns - column : 0;
      u32 pair[4];
#pragma unroll
      for (int k = 0; k < 4; k++)
        pair[k] = (2 * k < left ? from[2 * k] : 0u) | (2 * k + 1 < left ? (u32)from[2 * k + 1] << 16 : 0u);
      *(uint4*)(stage + place() + i * STEP * PRODUCT_ROW_BYTES) = make_uint4(pair[0], pair[1], pair[2], pair[3]);
    }
  }
};

/* n ... n + 3 of `from`, as far as they are below `end`. */
__device__ inline float4 load_up_to_4(const float* from, i32 n, i32 end) {
  if (!from) return make_float4(0, 0, 0, 0);
  return make_float4(from[n], n + 1 < end ? from[n + 1] : 0, n + 2 < end ? from[n + 2] : 0, n + 3 < end ? from[n + 3] : 0);
}
__device__ inline float4 add4(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }

/*
 * Stores a finished tile, f32 [rows][BLOCK_OUTPUTS + pad] in shared memory. For all threads, after a barrier. A warp has
 * every WARPS-th row, a lane 4 outputs of it. A bias of null adds nothing, which is not the same as adding 0 to -0.
 */
template <int BLOCK_OUTPUTS, int THREADS>
__device__ inline void store_product_tile(const ProductArguments& p, const ProductRows& rows, i32 output_tile, const float* tile) {
  const bool gated = p.gate.kind >= 0;
  const int width = gated ? BLOCK_OUTPUTS / 2 : BLOCK_OUTPUTS; /* columns of y that the tile has */
  const i32 stride = gated ? p.outputs / 2 : p.outputs;
  const float* bias = p.bias ? p.bias + (i64)rows.matrix * p.outputs : nullptr;
  const bool whole = stride % 4 == 0 && ((uintptr_t)p.y & 15) == 0;
  for (int column = threadIdx.x % 32 * 4; column < width; column += 128) {
    const i32 n = output_tile * width + column;
    if (n >= stride) break;
    const float4 first_bias = load_up_to_4(bias, n, stride), second_bias = load_up_to_4(gated && bias ? bias + stride : nullptr, n, stride);
#pragma unroll 4
    for (int at = threadIdx.x / 32; at < rows.count; at += THREADS / 32) {
      const i64 row = p.groups.offsets ? p.groups.sorted[rows.first + at] : rows.first + at;
      const float* from = tile + at * (BLOCK_OUTPUTS + PRODUCT_PAD) + column;
      float4 v = *(const float4*)from;
      if (bias) v = add4(v, first_bias);
      if (gated) {
        float4 up = *(const float4*)(from + BLOCK_OUTPUTS / 2);
        if (bias) up = add4(up, second_bias);
        v = make_float4(gated_activation(p.gate.kind, v.x, up.x, p.gate.alpha, p.gate.limit),
                        gated_activation(p.gate.kind, v.y, up.y, p.gate.alpha, p.gate.limit),
                        gated_activation(p.gate.kind, v.z, up.z, p.gate.alpha, p.gate.limit),
                        gated_activation(p.gate.kind, v.w, up.w, p.gate.alpha, p.gate.limit));
      }
      float* to = p.y + row * stride + n;
      if (whole) *(float4*)to = v;
      else {
        to[0] = v.x;
        if (n + 1 < stride) to[1] = v.y;
        if (n + 2 < stride) to[2] = v.z;
        if (n + 3 < stride) to[3] = v.w;
      }
    }
  }
}

/* ---- mma.sync: 8 warps, each 32 outputs x ROWS / 2 rows ---- */
constexpr int MMA_OUTPUTS = 128, MMA_THREADS = 256, MMA_STAGES = 4;
template <int ROWS>
constexpr int MMA_BLOCKS = ROWS > 32 ? 1 : 2; /* on a multiprocessor at once */

template <int ROWS>
constexpr size_t mma_product_shared() {
  size_t ring = MMA_STAGES * ROWS * PRODUCT_ROW_BYTES, tile = ROWS * (MMA_OUTPUTS + PRODUCT_PAD) * sizeof(float);
  return ring > tile ? ring : tile;
}

/* A finished accumulator (outputs g, g + 8 of rows 2t, 2t + 1) into the tile of store_product_tile. */
template <int BLOCK_OUTPUTS>
__device__ inline void place_accumulator(float* tile, const float* d, int output, int row, int lane) {
  float* at = tile + (row + lane % 4 * 2) * (BLOCK_OUTPUTS + PRODUCT_PAD) + output + lane / 4;
  at[0] = d[0];
  at[BLOCK_OUTPUTS + PRODUCT_PAD] = d[1];
  at[8] = d[2];
  at[BLOCK_OUTPUTS + PRODUCT_PAD + 8] = d[3];
}

template <class W, int ROWS>
__global__ void __launch_bounds__(MMA_THREADS, MMA_BLOCKS<ROWS>) product_mma_kernel(const __grid_constant__ ProductArguments p) {
  constexpr int PAIRS = ROWS / 32; /* of 8 rows, per warp */
  constexpr int STAGE = ROWS * PRODUCT_ROW_BYTES;
  PSI_DYNAMIC_SHARED(shared);
  let_next_start();
  wait_for_inputs();
  const ProductShape s = product_shape<W>(p, MMA_OUTPUTS);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warp_output = warp / 2 * 32, warp_row = warp % 2 * (ROWS / 2);
  const bool ragged = p.columns % 8 != 0;
  /* ldmatrix: lane's row of the first pair, and its chunk of the first k-step */
  const int matrix_row = warp_row + lane / 16 * 8 + lane % 8, matrix_chunk = lane / 8 % 2 ^ lane % 8;

  for (i64 id = blockIdx.x;; id += gridDim.x) {
    const i32 output_tile = (i32)(id % s.output_tiles);
    ProductRows rows;
    if (!find_product_rows(p, (i32)(id / s.output_tiles), ROWS, rows)) return;
    const u8* matrix = p.w + rows.matrix * s.matrix_bytes;
    const u8* weights[2];
#pragma unroll
    for (int i = 0; i < 2; i++)
      weights[i] = matrix + product_weight_tile(p, s, output_tile, warp_output / 16 + i, MMA_OUTPUTS / 16) * s.tile_bytes;
    ProductInput<ROWS, MMA_THREADS> input;
    input.start(p, rows);
    typename W::Raw raw[2];
#pragma unroll
    for (int i = 0; i < 2; i++) W::load(raw[i], weights[i], s.weight_units, 0, lane);
#pragma unroll
    for (int u = 0; u < MMA_STAGES - 1; u++) {
      if (u < s.units) {
        if (ragged) input.copy_ragged(p, rows, shared + u * STAGE, u);
        else input.copy(p, shared + u * STAGE, u);
      }
      copy_async_commit();
    }

    float sum[2][2 * PAIRS][4] = {}, total[2][2 * PAIRS][4] = {};
    i32 segment_end = s.segment_units;
    for (i32 u = 0; u < s.units; u++) {
      copy_async_wait<MMA_STAGES - 2>();
      __syncthreads();
      if (u + MMA_STAGES - 1 < s.units) {
        u8* stage = shared + (u + MMA_STAGES - 1) % MMA_STAGES * STAGE;
        if (ragged) input.copy_ragged(p, rows, stage, u + MMA_STAGES - 1);
        else input.copy(p, stage, u + MMA_STAGES - 1);
      }
      copy_async_commit();
      typename W::Raw next[2];
#pragma unroll
      for (int i = 0; i < 2; i++) W::load(next[i], weights[i], s.weight_units, min(u + 1, s.units - 1) / W::PARTS, lane);

      const u8* stage = shared + u % MMA_STAGES * STAGE + matrix_row * PRODUCT_ROW_BYTES;
#pragma unroll
      for (int step = 0; step < 4; step++) {
        u32 a[2][4];
#pragma unroll
        for (int i = 0; i < 2; i++) W::fragment(raw[i], step, a[i]);
#pragma unroll
        for (int j = 0; j < PAIRS; j++) {
          u32 b[4];
          load_matrix_x4(b, stage + j * 16 * PRODUCT_ROW_BYTES + ((matrix_chunk ^ step * 2) << 4));
#pragma unroll
          for (int i = 0; i < 2; i++) {
            mma_bf16(sum[i][2 * j], a[i], b);
            mma_bf16(sum[i][2 * j + 1], a[i], b + 2);
          }
        }
      }
#pragma unroll
      for (int i = 0; i < 2; i++) raw[i] = next[i];

      if (u + 1 == segment_end || u + 1 == s.units) {
        const bool first = segment_end == s.segment_units;
        segment_end += s.segment_units;
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
          for (int j = 0; j < 2 * PAIRS; j++)
#pragma unroll
            for (int k = 0; k < 4; k++) {
              total[i][j][k] = first ? sum[i][j][k] : total[i][j][k] + sum[i][j][k];
              sum[i][j][k] = 0;
            }
      }
    }

    copy_async_wait<0>();
    __syncthreads();
    float* tile = (float*)shared;
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
      for (int j = 0; j < 2 * PAIRS; j++)
        place_accumulator<MMA_OUTPUTS>(tile, total[i][j], warp_output + i * 16, warp_row + j * 8, lane);
    __syncthreads();
    store_product_tile<MMA_OUTPUTS, MMA_THREADS>(p, rows, output_tile, tile);
    __syncthreads();
  }
}

/* ---- launch ---- */

/* Tiles of rows, at most: with groups every expert may end in one that is not full. */
inline i64 product_row_tiles(const ProductArguments& p, int size) {
  i64 full = p.rows / size;
  if (!p.groups.offsets) return PSI_DIVIDE_UP((i64)p.rows, size);
  return full + min(p.groups.experts, p.rows);
}

/* Blocks are persistent: no more than run at once. */
inline unsigned product_grid(const ProductArguments& p, int outputs, int rows, int per_multiprocessor) {
  return (unsigned)min(product_row_tiles(p, rows) * PSI_DIVIDE_UP(p.outputs, outputs), (i64)per_multiprocessor * device.multiprocessors);
}

template <class W, int ROWS>
i32 launch_product_mma(const char* op, const ProductArguments& p) {
  unsigned grid = product_grid(p, MMA_OUTPUTS, ROWS, MMA_BLOCKS<ROWS>);
  return launch(op, product_mma_kernel<W, ROWS>, dim3(grid), dim3(MMA_THREADS), mma_product_shared<ROWS>(), p);
}

}  // namespace psi
