/* The norm of one group of a row, for the kernels that norm: one order of sums, so the same bits in all of them. */
#pragma once
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
  /* instead of delta: the weighted sum of `used` rows for each row, by fused multiply-add from the first on */
  const float *parts = nullptr, *part_weights = nullptr;
  i32 used = 0;
};

/* One group by THREADS threads (a block, or one warp of it). Weights are read before what the kernel before this one makes. */
template <int THREADS>
__device__ __forceinline__ void norm_group(const NormArguments& p, i64 row, i32 group, int thread, float* shared) {
  const i64 at = row * p.stride + p.offset + (i64)group * p.width;
  const float* x = p.x + at;
  const bool whole = (at % 4 | p.width % 4) == 0 && (((uintptr_t)p.x | (uintptr_t)p.y | (uintptr_t)p.w | (uintptr_t)p.delta | (uintptr_t)p.sum | (uintptr_t)p.parts) & 15) == 0;
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
    if (p.parts) {
      NormPiece sum = {};
#pragma unroll 4
      for (i32 j = 0; j < p.used; j++) {
        const NormPiece part = read_piece(p.parts + (row * p.used + j) * p.width, k, p.width, whole);
        for (int i = 0; i < 4; i++) sum.v[i] = __fmaf_rn(p.part_weights[row * p.used + j], part.v[i], sum.v[i]);
      }
      for (int i = 0; i < 4; i++) v.v[i] = __fadd_rn(v.v[i], sum.v[i]);
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

/* Enqueues the norms of `rows` rows (rms_norm.cu). */
i32 launch_norm(const char* op, const NormArguments& p, i32 rows);

}  // namespace psi
