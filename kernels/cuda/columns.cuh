/*
 * Sums of columns in a fixed order: rows are cut into as many chunks as the shape says, a block makes the sums of one chunk
 * for 128 columns, and a second kernel adds the chunks, ascending, to what is there. Partial sums lie in memory of the
 * library.
 *
 * A form gives the terms: what it loads for four columns of a row, several rows ahead, and how that adds to SUMS sums.
 */
#pragma once
#include "columns.h"
#include "train.cuh"

namespace psi {

constexpr int COLUMN_THREADS = 256, COLUMN_WIDTH = 128, COLUMN_ROWS = 8, COLUMN_AHEAD = 4;

__device__ __forceinline__ void add_products(float4& total, float4 a, float4 b) {
  total = make_float4(fmaf(a.x, b.x, total.x), fmaf(a.y, b.y, total.y), fmaf(a.z, b.z, total.z), fmaf(a.w, b.w, total.w));
}

/* The elements of x, whose rows begin `pitch` apart. */
struct ColumnTerms {
  static constexpr int SUMS = 1;
  In x;
  i64 pitch;
  typedef Four Loaded;
  __device__ __forceinline__ Loaded load(i64 row, i32 column, i64 valid, bool whole) const { return load_some4(x, row * pitch + column, valid, whole); }
  __device__ __forceinline__ void add(float4* total, const Loaded& l, i64, i32, i64, bool) const {
    const float4 v = floats(x, l);
    total[0].x += v.x, total[0].y += v.y, total[0].z += v.z, total[0].w += v.w;
  }
};

/* The products of dy and x, element by element. */
struct ProductTerms {
  static constexpr int SUMS = 1;
  In dy, x;
  i32 width;
  struct Loaded {
    Four dy, x;
  };
  __device__ __forceinline__ Loaded load(i64 row, i32 column, i64 valid, bool whole) const {
    const i64 at = row * width + column;
    return {load_some4(dy, at, valid, whole), load_some4(x, at, valid, whole)};
  }
  __device__ __forceinline__ void add(float4* total, const Loaded& l, i64, i32, i64, bool) const { add_products(total[0], floats(dy, l.dy), floats(x, l.x)); }
};

/* How many chunks rows are cut into, for `sums` columns in all. */
static inline i32 column_chunks(i64 rows, i64 sums) {
  const i64 most = COLUMN_PARTS / sums, wanted = PSI_DIVIDE_UP(rows, 64);
  const i64 chunks = wanted < 256 ? wanted : 256;
  return (i32)(chunks < most ? chunks < 1 ? 1 : chunks : most);
}

/* parts [chunk][group][sum][width] */
template <class Form>
static __global__ void __launch_bounds__(COLUMN_THREADS) column_parts_kernel(Form f, float* parts, const i32* starts, i64 rows, i32 width, i32 chunks) {
  __shared__ float4 sums[COLUMN_ROWS][32];
  let_next_start();
  wait_for_inputs();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const i32 group = blockIdx.z, chunk = blockIdx.y, column = blockIdx.x * COLUMN_WIDTH + 4 * lane;
  const i64 from = starts ? starts[group] : 0, to = starts ? starts[group + 1] : rows, size = PSI_DIVIDE_UP(to - from, chunks);
  const i64 begin = from + chunk * size, end = begin + size < to ? begin + size : to, valid = width - column;
  const bool whole = width % 4 == 0 && valid >= 4;
  float4 total[Form::SUMS] = {};
  if (valid > 0) {
    i64 r = begin + warp;
    for (; r + (COLUMN_AHEAD - 1) * COLUMN_ROWS < end; r += COLUMN_AHEAD * COLUMN_ROWS) {
      typename Form::Loaded loaded[COLUMN_AHEAD];
#pragma unroll
      for (int i = 0; i < COLUMN_AHEAD; i++) loaded[i] = f.load(r + i * COLUMN_ROWS, column, valid, whole);
#pragma unroll
      for (int i = 0; i < COLUMN_AHEAD; i++) f.add(total, loaded[i], r + i * COLUMN_ROWS, column, valid, whole);
    }
    for (; r < end; r += COLUMN_ROWS) f.add(total, f.load(r, column, valid, whole), r, column, valid, whole);
  }
  for (int s = 0; s < Form::SUMS; s++) {
    __syncthreads();
    sums[warp][lane] = total[s];
    __syncthreads();
    if (warp != 0) continue;
    float4 all = sums[0][lane];
    for (int w = 1; w < COLUMN_ROWS; w++) all.x += sums[w][lane].x, all.y += sums[w][lane].y, all.z += sums[w][lane].z, all.w += sums[w][lane].w;
    put_some4({parts, false}, (((i64)chunk * gridDim.z + group) * Form::SUMS + s) * width + column, valid, whole, all);
  }
}

/* y[i] += factor * the parts, for the sums' first, or second, `width` columns of each group; a warp adds an eighth of them */
static __global__ void __launch_bounds__(COLUMN_THREADS) column_total_kernel(float* y, const float* parts, i32 width, i32 groups, i32 sums, i32 sum, i32 chunks, float factor) {
  __shared__ float shared[COLUMN_ROWS][32];
  let_next_start();
  wait_for_inputs();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const i64 i = (i64)blockIdx.x * 32 + lane, count = (i64)width * groups;
  float total = 0;
  if (i < count) {
    const float* part = parts + (i / width * sums + sum) * width + i % width;
    const i64 pitch = (i64)groups * sums * width;
    const i32 end = chunks * (warp + 1) / COLUMN_ROWS;
#pragma unroll 8
    for (i32 c = chunks * warp / COLUMN_ROWS; c < end; c++) total += part[c * pitch];
  }
  shared[warp][lane] = total;
  __syncthreads();
  if (warp != 0 || i >= count) return;
  for (int w = 1; w < COLUMN_ROWS; w++) total += shared[w][lane];
  y[i] += factor * total;
}

template <class Form>
static i32 column_parts_of(const char* op, const Form& f, const i32* starts, i64 rows, i32 width, i32 groups, i32& chunks) {
  if (!column_parts) return no_device(op);
  if ((i64)width * groups * Form::SUMS > COLUMN_PARTS)
    return fail(PSI_UNSUPPORTED, "[%s] expected at most %lld columns of groups, got %lld.", op, (long long)(COLUMN_PARTS / Form::SUMS), (long long)width * groups);
  chunks = column_chunks(PSI_DIVIDE_UP(rows, groups), (i64)width * groups * Form::SUMS);
  return launch(op, column_parts_kernel<Form>, dim3(PSI_DIVIDE_UP(width, COLUMN_WIDTH), chunks, groups), dim3(COLUMN_THREADS), 0, f, column_parts, starts, rows, width, chunks);
}
static inline i32 add_column_parts(const char* op, float* y, i32 width, i32 groups, i32 sums, i32 sum, i32 chunks, float factor) {
  return launch(op, column_total_kernel, dim3((unsigned)PSI_DIVIDE_UP((i64)width * groups, 32)), dim3(COLUMN_THREADS), 0, y, (const float*)column_parts, width, groups, sums, sum, chunks, factor);
}

}  // namespace psi
