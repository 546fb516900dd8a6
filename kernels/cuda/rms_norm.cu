/*
 * y = x / sqrt(mean(x^2) + eps) * w over each group of each row (psi_rms_norm), and of the sum of two streams
 * (psi_add_rms_norm). A block of 256 threads per wide group, a warp per group of up to 512 elements; thread t sums every
 * 256th (32nd) piece of 4 elements, then the block's tree: the same order for any number of rows.
 */
#include "block_sum.cuh"

namespace psi {

constexpr int NORM_THREADS = 256;
constexpr i32 NORM_NARROW = 512;
constexpr i32 NORM_KEPT = 4; /* pieces of 4 elements that a thread keeps in registers: rows of up to 4096 are read once */

struct NormPiece {
  float v[4];
};

/* Elements k..k+3 of a group; zeros past the end. */
__device__ __forceinline__ NormPiece read_piece(const float* from, i32 k, i32 width, bool whole) {
  NormPiece p;
  if (whole) {
    float4 f = *(const float4*)(from + k);
    p.v[0] = f.x, p.v[1] = f.y, p.v[2] = f.z, p.v[3] = f.w;
  } else {
    for (int i = 0; i < 4; i++) p.v[i] = k + i < width ? from[k + i] : 0.0f;
  }
  return p;
}
__device__ __forceinline__ void write_piece(float* to, i32 k, i32 width, bool whole, const NormPiece& p) {
  if (whole) *(float4*)(to + k) = make_float4(p.v[0], p.v[1], p.v[2], p.v[3]);
  else
    for (int i = 0; i < 4; i++)
      if (k + i < width) to[k + i] = p.v[i];
}

struct NormArguments {
  float* sum; /* null: no second stream */
  float* y;
  const float* x;
  const float* delta;
  const float* w;
  i32 stride, offset, groups, width;
  float eps;
};

/* One group by THREADS threads (a block, or one warp of it). Weights are read before what the kernel before this one makes. */
template <int THREADS>
__device__ __forceinline__ void norm_group(const NormArguments& p, i64 row, i32 group, int thread, float* shared) {
  const i64 at = row * p.stride + p.offset + (i64)group * p.width;
  const float* x = p.x + at;
  const bool whole = (at % 4 | p.width % 4) == 0 && (((uintptr_t)p.x | (uintptr_t)p.y | (uintptr_t)p.w | (uintptr_t)p.delta | (uintptr_t)p.sum) & 15) == 0;
  NormPiece kept[NORM_KEPT], weights[NORM_KEPT];
#pragma unroll
  for (int i = 0; i < NORM_KEPT; i++) {
    const i32 k = (thread + i * THREADS) * 4;
    weights[i] = {{1.0f, 1.0f, 1.0f, 1.0f}};
    if (p.w && k < p.width) weights[i] = read_piece(p.w, k, p.width, whole);
  }
  wait_for_inputs();
  float squares = 0.0f;
  auto piece = [&](i32 k) {
    NormPiece v = read_piece(x, k, p.width, whole);
    if (p.delta) {
      NormPiece d = read_piece(p.delta + at, k, p.width, whole);
      for (int i = 0; i < 4; i++) v.v[i] += d.v[i];
    }
    return v;
  };
#pragma unroll
  for (int i = 0; i < NORM_KEPT; i++) {
    i32 k = (thread + i * THREADS) * 4;
    if (k >= p.width) break;
    kept[i] = piece(k);
    for (int j = 0; j < 4; j++) squares = fmaf(kept[i].v[j], kept[i].v[j], squares);
  }
  for (i32 k = (thread + NORM_KEPT * THREADS) * 4; k < p.width; k += THREADS * 4) {
    NormPiece v = piece(k);
    for (int j = 0; j < 4; j++) squares = fmaf(v.v[j], v.v[j], squares);
  }
  squares = THREADS == 32 ? warp_sum(squares) : block_sum(squares, shared);
  const float scale = 1.0f / sqrtf(squares / (float)p.width + p.eps);
  auto finish = [&](i32 k, NormPiece v, const NormPiece& w) {
    if (p.sum) write_piece(p.sum + at, k, p.width, whole, v);
    for (int i = 0; i < 4; i++) v.v[i] = v.v[i] * scale * w.v[i];
    write_piece(p.y + at, k, p.width, whole, v);
  };
#pragma unroll
  for (int i = 0; i < NORM_KEPT; i++) {
    i32 k = (thread + i * THREADS) * 4;
    if (k >= p.width) break;
    finish(k, kept[i], weights[i]);
  }
  for (i32 k = (thread + NORM_KEPT * THREADS) * 4; k < p.width; k += THREADS * 4) {
    NormPiece w = {{1.0f, 1.0f, 1.0f, 1.0f}};
    if (p.w) w = read_piece(p.w, k, p.width, whole);
    finish(k, piece(k), w);
  }
}

__global__ void __launch_bounds__(NORM_THREADS) norm_kernel(const __grid_constant__ NormArguments p) {
  __shared__ float shared[32];
  let_next_start();
  norm_group<NORM_THREADS>(p, blockIdx.x, blockIdx.y, threadIdx.x, shared);
}

__global__ void __launch_bounds__(128) narrow_norm_kernel(const __grid_constant__ NormArguments p, i64 count) {
  let_next_start();
  const i64 task = (i64)blockIdx.x * 4 + threadIdx.x / 32;
  if (task >= count) wait_for_inputs();
  else norm_group<32>(p, task / p.groups, (i32)(task % p.groups), threadIdx.x % 32, nullptr);
}

static i32 launch_norm(const char* op, const NormArguments& p, i32 rows) {
  if (p.width > NORM_NARROW) return launch(op, norm_kernel, dim3((unsigned)rows, (unsigned)p.groups), dim3(NORM_THREADS), 0, p);
  const i64 count = (i64)rows * p.groups;
  return launch(op, narrow_norm_kernel, dim3((unsigned)PSI_DIVIDE_UP(count, 4)), dim3(128), 0, p, count);
}

}  // namespace psi

PSI_API i32 psi_rms_norm(void* y, const void* x, const void* w, i32 rows, i32 stride, i32 offset, i32 groups, i32 width, f32 eps) {
  using namespace psi;
  if (!y || !x) return fail(PSI_INVALID, "[psi_rms_norm] expected non-null pointers.");
  if (rows < 0 || groups < 1 || width < 1 || offset < 0 || (i64)offset + (i64)groups * width > stride)
    return fail(PSI_INVALID, "[psi_rms_norm] expected %d groups of %d from %d within rows of %d.", groups, width, offset, stride);
  return launch_norm("psi_rms_norm", {nullptr, (float*)y, (const float*)x, nullptr, (const float*)w, stride, offset, groups, width, eps}, rows);
}

PSI_API i32 psi_add_rms_norm(void* sum, void* y, const void* x, const void* delta, const void* w, i32 rows, i32 width, f32 eps) {
  using namespace psi;
  if (!sum || !y || !x || !delta || !w) return fail(PSI_INVALID, "[psi_add_rms_norm] expected non-null pointers.");
  if (rows < 0 || width < 1) return fail(PSI_INVALID, "[psi_add_rms_norm] expected rows >= 0 and a width, got %d and %d.", rows, width);
  return launch_norm("psi_add_rms_norm", {(float*)sum, (float*)y, (const float*)x, (const float*)delta, (const float*)w, width, 0, 1, width, eps}, rows);
}
