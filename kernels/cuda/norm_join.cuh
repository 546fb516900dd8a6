/*
 * sum = (x + N(delta; w)) * scale and y = N(sum; next), N being the RMS norm times a weight; with BRANCHES delta is itself
 * N(dense; dense_w) + N(e; experts_w), e the weighted sum of the chosen experts' results. A row stays in the registers of its threads
 * from the first norm to the last; the order of sums and every rounding are those of norm.cuh, add_scaled.cu and moe_combine.cu.
 */
#pragma once
#include "norm.cuh"

namespace psi {

struct JoinedNorms {
  float *sum, *y; /* y null: no norm of the sum */
  const float *x, *delta, *w, *next;
  i32 width;
  float eps, scale;
  const float *experts = nullptr, *weights = nullptr, *dense_w = nullptr, *experts_w = nullptr; /* with BRANCHES; delta is the dense one's */
  i32 used = 0;
};

/* f(i, k) for the pieces of a row that a thread has: piece i begins at element k. */
template <int THREADS, int KEPT, class F>
__device__ __forceinline__ void each_piece(i32 width, int thread, F&& f) {
#pragma unroll
  for (int i = 0; i < KEPT; i++) {
    const i32 k = (thread + i * THREADS) * 4;
    if (k < width) f(i, k);
  }
}

template <int THREADS, int KEPT>
__device__ __forceinline__ void read_row(NormPiece (&v)[KEPT], const float* from, i32 width, int thread) {
  each_piece<THREADS, KEPT>(width, thread, [&](int i, i32 k) { v[i] = read_piece(from, k, width, true); });
}

/* What the norm multiplies a row by, before its weight. */
template <int THREADS, int KEPT>
__device__ __forceinline__ float norm_scale(const NormPiece (&v)[KEPT], i32 width, float eps, int thread, float* shared) {
  float squares = 0.0f;
  each_piece<THREADS, KEPT>(width, thread, [&](int i, i32) {
    for (int j = 0; j < 4; j++) squares = fmaf(v[i].v[j], v[i].v[j], squares);
  });
  squares = THREADS == 32 ? warp_sum(squares) : block_sum(squares, shared);
  return 1.0f / sqrtf(squares / (float)width + eps);
}

/* The same of two rows, with one barrier. */
template <int THREADS, int KEPT>
__device__ __forceinline__ float2 norm_scales(const NormPiece (&a)[KEPT], const NormPiece (&b)[KEPT], i32 width, float eps, int thread, float (*shared)[32]) {
  float2 squares = make_float2(0.0f, 0.0f);
  each_piece<THREADS, KEPT>(width, thread, [&](int i, i32) {
    for (int j = 0; j < 4; j++) squares = make_float2(fmaf(a[i].v[j], a[i].v[j], squares.x), fmaf(b[i].v[j], b[i].v[j], squares.y));
  });
  squares = make_float2(warp_sum(squares.x), warp_sum(squares.y));
  if (THREADS != 32) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (lane == 0) shared[0][warp] = squares.x, shared[1][warp] = squares.y;
    __syncthreads();
    squares = make_float2(warp_sum(lane < THREADS / 32 ? shared[0][lane] : 0.0f), warp_sum(lane < THREADS / 32 ? shared[1][lane] : 0.0f));
  }
  return make_float2(1.0f / sqrtf(squares.x / (float)width + eps), 1.0f / sqrtf(squares.y / (float)width + eps));
}

__device__ __forceinline__ NormPiece normed(const NormPiece& v, float scale, const NormPiece& w) {
  NormPiece y;
  for (int j = 0; j < 4; j++) y.v[j] = __fmul_rn(__fmul_rn(v.v[j], scale), w.v[j]);
  return y;
}
__device__ __forceinline__ NormPiece added(const NormPiece& a, const NormPiece& b) {
  NormPiece y;
  for (int j = 0; j < 4; j++) y.v[j] = __fadd_rn(a.v[j], b.v[j]);
  return y;
}

/* The weighted sum of a token's experts, a few of which are read at once. */
template <int THREADS, int KEPT>
__device__ __forceinline__ void combine_row(NormPiece (&e)[KEPT], const JoinedNorms& p, i64 row, int thread) {
  constexpr int AT_ONCE = KEPT > 3 ? 4 : 8; /* as registers allow */
#pragma unroll
  for (int i = 0; i < KEPT; i++) e[i] = {};
#pragma unroll 1
  for (i32 first = 0; first < p.used; first += AT_ONCE) {
    NormPiece part[AT_ONCE][KEPT];
    float weight[AT_ONCE];
#pragma unroll
    for (int j = 0; j < AT_ONCE; j++) {
      const i64 slot = row * p.used + min(first + j, p.used - 1);
      weight[j] = p.weights[slot];
      read_row<THREADS>(part[j], p.experts + slot * p.width, p.width, thread);
    }
#pragma unroll
    for (int j = 0; j < AT_ONCE; j++) {
      if (first + j >= p.used) break;
      each_piece<THREADS, KEPT>(p.width, thread, [&](int i, i32) {
        for (int n = 0; n < 4; n++) e[i].v[n] = __fmaf_rn(weight[j], part[j][i].v[n], e[i].v[n]);
      });
    }
  }
}

/* One row by THREADS threads. `shared`: for the norms' sums, read before the barrier of those after them. */
template <int THREADS, int KEPT, bool BRANCHES>
__device__ __forceinline__ void join_norms(const JoinedNorms& p, i64 row, int thread, float (*shared)[32]) {
  const i64 at = row * p.width;
  NormPiece w[KEPT], next[KEPT], dense_w[KEPT], experts_w[KEPT], o[KEPT], s[KEPT];
  read_row<THREADS>(w, p.w, p.width, thread);
  if (p.y) read_row<THREADS>(next, p.next, p.width, thread);
  if constexpr (BRANCHES) {
    read_row<THREADS>(dense_w, p.dense_w, p.width, thread);
    read_row<THREADS>(experts_w, p.experts_w, p.width, thread);
  }
  wait_for_inputs();
  NormPiece e[KEPT];
  if constexpr (BRANCHES) combine_row<THREADS>(e, p, row, thread);
  read_row<THREADS>(o, p.delta + at, p.width, thread);
  read_row<THREADS>(s, p.x + at, p.width, thread);
  if constexpr (BRANCHES) {
    const float2 scales = norm_scales<THREADS>(o, e, p.width, p.eps, thread, shared);
    each_piece<THREADS, KEPT>(p.width, thread, [&](int i, i32) { o[i] = added(normed(o[i], scales.x, dense_w[i]), normed(e[i], scales.y, experts_w[i])); });
  }
  const float scale = norm_scale<THREADS>(o, p.width, p.eps, thread, shared[2]);
  each_piece<THREADS, KEPT>(p.width, thread, [&](int i, i32 k) {
    s[i] = added(s[i], normed(o[i], scale, w[i]));
    for (int j = 0; j < 4; j++) s[i].v[j] = __fmul_rn(s[i].v[j], p.scale);
    write_piece(p.sum + at, k, p.width, true, s[i]);
  });
  if (!p.y) return;
  const float last = norm_scale<THREADS>(s, p.width, p.eps, thread, shared[0]);
  each_piece<THREADS, KEPT>(p.width, thread, [&](int i, i32 k) { write_piece(p.y + at, k, p.width, true, normed(s[i], last, next[i])); });
}

template <int KEPT, bool BRANCHES>
__global__ void __launch_bounds__(NORM_THREADS) joined_norms_kernel(const __grid_constant__ JoinedNorms p) {
  __shared__ float shared[3][32];
  let_next_start();
  join_norms<NORM_THREADS, KEPT, BRANCHES>(p, blockIdx.x, threadIdx.x, shared);
}

/* A warp per row. */
template <bool BRANCHES>
__global__ void __launch_bounds__(128) narrow_joined_norms_kernel(const __grid_constant__ JoinedNorms p, i32 rows) {
  let_next_start();
  const i32 row = (i32)blockIdx.x * 4 + threadIdx.x / 32;
  if (row >= rows) wait_for_inputs();
  else join_norms<32, NORM_KEPT, BRANCHES>(p, row, threadIdx.x % 32, nullptr);
}

/* Rows that KEPT pieces of a thread hold. */
constexpr i32 held_width(int kept) { return 4 * NORM_THREADS * kept; }

template <bool BRANCHES>
i32 launch_joined_norms(const char* op, const JoinedNorms& p, i32 rows) {
  constexpr int MOST = BRANCHES ? NORM_KEPT : 2 * NORM_KEPT; /* pieces that registers have room for */
  if (rows < 0 || p.width < 4 || p.width % 4 != 0 || p.width > held_width(MOST))
    return fail(PSI_UNSUPPORTED, "[%s] expected rows >= 0 and a width of 4 to %d in fours, got %d and %d.", op, held_width(MOST), rows, p.width);
  const uintptr_t all = (uintptr_t)p.sum | (uintptr_t)p.y | (uintptr_t)p.x | (uintptr_t)p.delta | (uintptr_t)p.w | (uintptr_t)p.next | (uintptr_t)p.experts |
                        (uintptr_t)p.dense_w | (uintptr_t)p.experts_w;
  if (all % 16 != 0) return fail(PSI_INVALID, "[%s] expected rows aligned to 16 bytes.", op);
  if (p.width <= NORM_NARROW)
    return launch(op, narrow_joined_norms_kernel<BRANCHES>, dim3((unsigned)PSI_DIVIDE_UP(rows, 4)), dim3(128), 0, p, rows);
  if (BRANCHES && p.width <= held_width(3)) return launch(op, joined_norms_kernel<3, BRANCHES>, dim3((unsigned)rows), dim3(NORM_THREADS), 0, p);
  if constexpr (!BRANCHES)
    if (p.width > held_width(NORM_KEPT)) return launch(op, joined_norms_kernel<MOST, false>, dim3((unsigned)rows), dim3(NORM_THREADS), 0, p);
  return launch(op, joined_norms_kernel<NORM_KEPT, BRANCHES>, dim3((unsigned)rows), dim3(NORM_THREADS), 0, p);
}

}  // namespace psi
