/*
 * norm: y = (x - mean) * scale * w + b with scale = 1/sqrt(var + eps), or the RMS norm when not `center`. stats [rows,2]
 * keeps mean and scale. norm_grad, with n = (x - mean) * scale and g = dy * w:
 *   dx = scale * (g - mean(g) [center only] - n * mean(g * n));   dw += sum over rows of dy * n;   db += sum of dy.
 * A warp makes a row, or half a warp one of up to 64: its elements come from memory once and from L1 after that. dw and db: of rows of up to 1024 elements a
 * block makes a chunk and keeps its sums in registers, as columns.cuh's parts; of longer ones columns.cuh reads them again.
 */
#include "columns.cuh"

namespace psi {

constexpr int NORM_THREADS = 256, NORM_ROWS = NORM_THREADS / 32;

__device__ __forceinline__ float sum4(float4 v) { return (v.x + v.y) + (v.z + v.w); }

constexpr i32 HALF_WARP_ROW = 64;

/* The sum over the LANES lanes of a row. */
template <int LANES>
__device__ __forceinline__ float lanes_sum(float v) {
#pragma unroll
  for (int mask = LANES / 2; mask > 0; mask >>= 1) v += __shfl_xor_sync(~0u, v, mask);
  return v;
}

template <int LANES>
__global__ void norm_kernel(Out y, float* stats, In x, const float* w, const float* b, i64 rows, i32 width, bool center, float eps) {
  let_next_start();
  wait_for_inputs();
  const i64 own = (i64)blockIdx.x * (NORM_THREADS / LANES) + threadIdx.x / LANES, row = own < rows ? own : rows - 1, at = row * width;
  const int lane = threadIdx.x % LANES; /* all lanes of a warp stay for its sums */
  const bool aligned = width % 4 == 0;
  float mean = 0, squares = 0;
  if (center) {
    for (i32 k = 4 * lane; k < width; k += 4 * LANES) mean += sum4(some4(x, at + k, width - k, aligned));
    mean = lanes_sum<LANES>(mean) / (float)width;
  }
  for (i32 k = 4 * lane; k < width; k += 4 * LANES) {
    const float4 v = some4(x, at + k, width - k, aligned);
    const float4 d = make_float4(v.x - mean, k + 1 < width ? v.y - mean : 0.0f, k + 2 < width ? v.z - mean : 0.0f, k + 3 < width ? v.w - mean : 0.0f);
    squares += (d.x * d.x + d.y * d.y) + (d.z * d.z + d.w * d.w);
  }
  const float scale = 1.0f / sqrtf(lanes_sum<LANES>(squares) / (float)width + eps);
  if (own >= rows) return;
  if (lane == 0) stats[2 * row] = mean, stats[2 * row + 1] = scale;
  const In gain = {w, false}, shift = {b, false};
  for (i32 k = 4 * lane; k < width; k += 4 * LANES) {
    float4 v = some4(x, at + k, width - k, aligned);
    v = make_float4((v.x - mean) * scale, (v.y - mean) * scale, (v.z - mean) * scale, (v.w - mean) * scale);
    if (w) {
      const float4 g = some4(gain, k, width - k, aligned);
      v = make_float4(v.x * g.x, v.y * g.y, v.z * g.z, v.w * g.w);
    }
    if (b) {
      const float4 s = some4(shift, k, width - k, aligned);
      v = make_float4(v.x + s.x, v.y + s.y, v.z + s.z, v.w + s.w);
    }
    put_some4(y, at + k, width - k, aligned, v);
  }
}

struct NormRow {
  In dy, x;
  const float* w;
  i64 at;
  i32 width;
  float mean, scale;
  bool aligned;
  /* g and n of four elements */
  __device__ __forceinline__ void terms(i32 k, float4& g, float4& n) const {
    g = some4(dy, at + k, width - k, aligned);
    if (w) {
      const float4 f = some4({w, false}, k, width - k, aligned);
      g = make_float4(g.x * f.x, g.y * f.y, g.z * f.z, g.w * f.w);
    }
    const float4 v = some4(x, at + k, width - k, aligned);
    n = make_float4((v.x - mean) * scale, (v.y - mean) * scale, (v.z - mean) * scale, (v.w - mean) * scale);
  }
};

template <int LANES>
__global__ void norm_grad_kernel(Out dx, In dy, In x, const float* w, const float* stats, i64 rows, i32 width, bool center, bool add) {
  let_next_start();
  wait_for_inputs();
  const i64 own = (i64)blockIdx.x * (NORM_THREADS / LANES) + threadIdx.x / LANES, row = own < rows ? own : rows - 1;
  const int lane = threadIdx.x % LANES;
  const NormRow r = {dy, x, w, row * width, width, stats[2 * row], stats[2 * row + 1], width % 4 == 0};
  float sum_g = 0, sum_gn = 0;
  for (i32 k = 4 * lane; k < width; k += 4 * LANES) {
    float4 g, n;
    r.terms(k, g, n);
    sum_g += sum4(g);
    sum_gn += (g.x * n.x + g.y * n.y) + (g.z * n.z + g.w * n.w);
  }
  const float mean_g = center ? lanes_sum<LANES>(sum_g) / (float)width : 0.0f, mean_gn = lanes_sum<LANES>(sum_gn) / (float)width;
  if (own >= rows) return;
  for (i32 k = 4 * lane; k < width; k += 4 * LANES) {
    float4 g, n;
    r.terms(k, g, n);
    float4 d = make_float4(r.scale * (g.x - mean_g - n.x * mean_gn), r.scale * (g.y - mean_g - n.y * mean_gn), r.scale * (g.z - mean_g - n.z * mean_gn),
                           r.scale * (g.w - mean_g - n.w * mean_gn));
    if (add) {
      const float4 before = some4(dx.in(), r.at + k, width - k, r.aligned);
      d = make_float4(before.x + d.x, before.y + d.y, before.z + d.z, before.w + d.w);
    }
    put_some4(dx, r.at + k, width - k, r.aligned, d);
  }
}

struct NormTerms {
  static constexpr int SUMS = 2;
  In dy, x;
  const float* stats;
  i32 width;
  struct Loaded {
    Four dy, x;
    float mean, scale;
  };
  __device__ __forceinline__ Loaded load(i64 row, i32 column, i64 valid, bool whole) const {
    const i64 at = row * width + column;
    return {load_some4(dy, at, valid, whole), load_some4(x, at, valid, whole), stats[2 * row], stats[2 * row + 1]};
  }
  __device__ __forceinline__ void add(float4* total, const Loaded& l, i64, i32, i64, bool) const {
    const float4 d = floats(dy, l.dy), v = floats(x, l.x);
    add_products(total[0], d, make_float4((v.x - l.mean) * l.scale, (v.y - l.mean) * l.scale, (v.z - l.mean) * l.scale, (v.w - l.mean) * l.scale));
    total[1] = make_float4(total[1].x + d.x, total[1].y + d.y, total[1].z + d.z, total[1].w + d.w);
  }
};

constexpr int WIDE_ROW = 1024, ROW_PARTS = WIDE_ROW / 128; /* four elements of a lane, times */

/* norm_grad for a chunk of rows, whose sums for dw and db become parts [chunk][2][width]. */
__global__ void __launch_bounds__(NORM_THREADS, 2) norm_grad_sums_kernel(float* parts, Out dx, In dy, In x, const float* w, const float* stats, i64 rows, i32 width, bool center, bool add) {
  __shared__ float4 shared[NORM_ROWS][32];
  let_next_start();
  wait_for_inputs();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const i64 size = PSI_DIVIDE_UP(rows, gridDim.x), begin = blockIdx.x * size, end = begin + size < rows ? begin + size : rows;
  float4 sum_w[ROW_PARTS] = {}, sum_b[ROW_PARTS] = {};
  for (i64 row = begin + warp; row < end; row += NORM_ROWS) {
    const NormRow r = {dy, x, w, row * width, width, stats[2 * row], stats[2 * row + 1], true};
    float sum_g = 0, sum_gn = 0;
#pragma unroll
    for (int i = 0; i < ROW_PARTS; i++) {
      const i32 k = 4 * lane + 128 * i;
      if (k >= width) continue;
      float4 g, n;
      r.terms(k, g, n);
      sum_g += sum4(g);
      sum_gn += (g.x * n.x + g.y * n.y) + (g.z * n.z + g.w * n.w);
    }
    const float mean_g = center ? warp_sum(sum_g) / (float)width : 0.0f, mean_gn = warp_sum(sum_gn) / (float)width;
#pragma unroll
    for (int i = 0; i < ROW_PARTS; i++) {
      const i32 k = 4 * lane + 128 * i;
      if (k >= width) continue;
      float4 g, n;
      r.terms(k, g, n);
      const float4 up = dy.at4(r.at + k);
      float4 d = make_float4(r.scale * (g.x - mean_g - n.x * mean_gn), r.scale * (g.y - mean_g - n.y * mean_gn), r.scale * (g.z - mean_g - n.z * mean_gn),
                             r.scale * (g.w - mean_g - n.w * mean_gn));
      if (add) {
        const float4 before = dx.in().at4(r.at + k);
        d = make_float4(before.x + d.x, before.y + d.y, before.z + d.z, before.w + d.w);
      }
      dx.put4(r.at + k, d);
      sum_w[i] = make_float4(fmaf(up.x, n.x, sum_w[i].x), fmaf(up.y, n.y, sum_w[i].y), fmaf(up.z, n.z, sum_w[i].z), fmaf(up.w, n.w, sum_w[i].w));
      sum_b[i] = make_float4(sum_b[i].x + up.x, sum_b[i].y + up.y, sum_b[i].z + up.z, sum_b[i].w + up.w);
    }
  }
#pragma unroll
  for (int i = 0; i < 2 * ROW_PARTS; i++) {
    const i32 k = 4 * lane + 128 * (i / 2);
    if (128 * (i / 2) >= width) break;
    __syncthreads();
    shared[warp][lane] = i % 2 ? sum_b[i / 2] : sum_w[i / 2];
    __syncthreads();
    if (warp != 0 || k >= width) continue;
    float4 all = shared[0][lane];
    for (int other = 1; other < NORM_ROWS; other++)
      all = make_float4(all.x + shared[other][lane].x, all.y + shared[other][lane].y, all.z + shared[other][lane].z, all.w + shared[other][lane].w);
    *(float4*)(parts + ((i64)blockIdx.x * 2 + i % 2) * width + k) = all;
  }
}

/* Chunks of rows whose sums fit: as many as keep the machine busy. */
static i32 norm_chunks(i64 rows, i32 width) {
  const i64 wanted = PSI_DIVIDE_UP(rows, 2 * NORM_ROWS), most = COLUMN_PARTS / (2 * width);
  return (i32)min(min(wanted, most), (i64)528);
}

}  // namespace psi

PSI_API i32 psi_norm(void* y, void* stats, const void* x, const void* w, const void* b, i32 rows, i32 width, i32 center, i32 dtype, f64 eps) {
  using namespace psi;
  PSI_REFUSE_F64("psi_norm", dtype);
  if (!y || !stats || !x || rows < 0 || width < 1 || !(eps >= 0) || half_at(dtype, 1) || half_at(dtype, 3) || half_at(dtype, 4))
    return fail(PSI_INVALID, "[psi_norm] expected pointers, statistics and weights in f32, eps of at least 0 and positive sizes, got rows %d, width %d, dtype %d, eps %g.", rows, width, dtype, eps);
  const bool narrow = width <= HALF_WARP_ROW;
  return launch("psi_norm", narrow ? norm_kernel<16> : norm_kernel<32>, dim3(PSI_DIVIDE_UP(rows, narrow ? 2 * NORM_ROWS : NORM_ROWS)), dim3(NORM_THREADS), 0, Out{y, half_at(dtype, 0)}, (float*)stats, In{x, half_at(dtype, 2)},
                (const float*)w, (const float*)b, (i64)rows, width, center != 0, (float)eps);
}
PSI_API i32 psi_norm_grad(void* dx, void* dw, void* db, const void* dy, const void* x, const void* w, const void* stats, i32 rows, i32 width, i32 center, i32 dtype) {
  using namespace psi;
  PSI_REFUSE_F64("psi_norm_grad", dtype);
  if (!dx || !dy || !x || !stats || rows < 0 || width < 1 || half_at(dtype, 1) || half_at(dtype, 2) || half_at(dtype, 5) || half_at(dtype, 6))
    return fail(PSI_INVALID, "[psi_norm_grad] expected pointers, statistics and weights in f32 and positive sizes, got rows %d, width %d, dtype %d.", rows, width, dtype);
  const In up = {dy, half_at(dtype, 3)}, in = {x, half_at(dtype, 4)};
  if ((dw || db) && rows > 0 && width <= WIDE_ROW && width % 4 == 0) {
    if (!column_parts) return no_device("psi_norm_grad");
    const i32 parts = norm_chunks(rows, width);
    PSI_TRY(launch("psi_norm_grad", norm_grad_sums_kernel, dim3(parts), dim3(NORM_THREADS), 0, column_parts, Out{dx, half_at(dtype, 0)}, up, in, (const float*)w, (const float*)stats,
                   (i64)rows, width, (center & 1) != 0, (center & 2) != 0));
    if (dw) PSI_TRY(add_column_parts("psi_norm_grad", (float*)dw, width, 1, 2, 0, parts, 1.0f));
    return db ? add_column_parts("psi_norm_grad", (float*)db, width, 1, 2, 1, parts, 1.0f) : PSI_OK;
  }
  const bool narrow = width <= HALF_WARP_ROW;
  PSI_TRY(launch("psi_norm_grad", narrow ? norm_grad_kernel<16> : norm_grad_kernel<32>, dim3(PSI_DIVIDE_UP(rows, narrow ? 2 * NORM_ROWS : NORM_ROWS)), dim3(NORM_THREADS), 0, Out{dx, half_at(dtype, 0)}, up, in, (const float*)w,
                 (const float*)stats, (i64)rows, width, (center & 1) != 0, (center & 2) != 0));
  if (!dw && !db) return PSI_OK;
  i32 chunks = 0;
  PSI_TRY(column_parts_of("psi_norm_grad", NormTerms{up, in, (const float*)stats, width}, nullptr, rows, width, 1, chunks));
  if (dw) PSI_TRY(add_column_parts("psi_norm_grad", (float*)dw, width, 1, 2, 0, chunks, 1.0f));
  if (db) PSI_TRY(add_column_parts("psi_norm_grad", (float*)db, width, 1, 2, 1, chunks, 1.0f));
  return PSI_OK;
}
