/*
 * The end of a layer of experts, and the next one's norm: sum = base + (sum over j of weights[t,j] * x[t*used+j]), with SHARED plus
 * sigmoid(b . gate_w) * shared; y = RMS norm of sum times w. A block makes a token: its thread t has every 256th piece of 4 columns
 * from t on, as in the ops that this joins.
 */
#pragma once
#include "glu.cuh"
#include "norm.cuh"

namespace psi {

constexpr i32 COMBINE_WIDEST = 4 * NORM_THREADS * NORM_KEPT; /* rows that the norm keeps in registers */

struct CombineArguments {
  float *sum, *y;
  const float *base, *x, *weights, *shared, *b, *gate_w, *w; /* shared: null, then without b and gate_w */
  i32 used, width;
  float eps;
};

/* COUNT: pieces of a thread. Rows of experts are asked for together, as many as there are registers for. */
template <int COUNT, bool SHARED>
__global__ void __launch_bounds__(NORM_THREADS) moe_combine_norm_kernel(const __grid_constant__ CombineArguments p) {
  constexpr int TOGETHER = COUNT > 2 ? 4 : 8;
  __shared__ float dots[NORM_THREADS / 32], squares_of[32];
  let_next_start();
  const i32 thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const i64 row = blockIdx.x, at = row * p.width;
  NormPiece gate_w[COUNT], w[COUNT], kept[COUNT], shared[COUNT], b[COUNT];
  const auto column = [&](int i) { return (thread + i * NORM_THREADS) * 4; };
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
    gate_w[i] = w[i] = kept[i] = shared[i] = b[i] = {};
    if (column(i) >= p.width) continue;
    if (SHARED) gate_w[i] = read_piece(p.gate_w, column(i), p.width, true);
    w[i] = read_piece(p.w, column(i), p.width, true);
  }
  wait_for_inputs();
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
    if (column(i) >= p.width) continue;
    kept[i] = read_piece(p.base + at, column(i), p.width, true);
    if (SHARED) shared[i] = read_piece(p.shared + at, column(i), p.width, true);
    if (SHARED) b[i] = read_piece(p.b + at, column(i), p.width, true);
  }
  NormPiece parts[COUNT] = {};
#pragma unroll 1
  for (i32 first = 0; first < p.used; first += TOGETHER) {
    float weight[TOGETHER];
    NormPiece part[TOGETHER][COUNT];
#pragma unroll
    for (int j = 0; j < TOGETHER; j++) { /* past the last one it again, for nobody */
      const i64 slot = row * p.used + min(first + j, p.used - 1);
      weight[j] = p.weights[slot];
#pragma unroll
      for (int i = 0; i < COUNT; i++) part[j][i] = read_piece(p.x + slot * p.width, min(column(i), p.width - 4), p.width, true);
    }
#pragma unroll
    for (int j = 0; j < TOGETHER; j++) {
      if (first + j >= p.used) break;
#pragma unroll
      for (int i = 0; i < COUNT; i++)
        for (int e = 0; e < 4; e++) parts[i].v[e] = __fmaf_rn(weight[j], part[j][i].v[e], parts[i].v[e]);
    }
  }
#pragma unroll
  for (int i = 0; i < COUNT; i++)
    for (int e = 0; e < 4; e++) kept[i].v[e] = __fadd_rn(kept[i].v[e], parts[i].v[e]);
  if constexpr (SHARED) {
    float dot = 0.0f;
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      if (column(i) >= p.width) continue;
      for (int e = 0; e < 4; e++) dot = fmaf(b[i].v[e], gate_w[i].v[e], dot);
    }
    dot = warp_sum(dot);
    if (lane == 0) dots[warp] = dot;
    __syncthreads();
    float gate = dots[0];
    for (int other = 1; other < NORM_THREADS / 32; other++) gate += dots[other];
    const float factor = gate_sigmoid(gate);
#pragma unroll
    for (int i = 0; i < COUNT; i++)
      for (int e = 0; e < 4; e++) kept[i].v[e] = __fmaf_rn(factor, shared[i].v[e], kept[i].v[e]);
  }
  float squares = 0.0f;
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
    if (column(i) >= p.width) continue;
    for (int e = 0; e < 4; e++) squares = fmaf(kept[i].v[e], kept[i].v[e], squares);
  }
  squares = block_sum(squares, squares_of);
  const float scale = 1.0f / sqrtf(squares / (float)p.width + p.eps);
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
    if (column(i) >= p.width) continue;
    write_piece(p.sum + at, column(i), p.width, true, kept[i]);
    for (int e = 0; e < 4; e++) kept[i].v[e] = kept[i].v[e] * scale * w[i].v[e];
    write_piece(p.y + at, column(i), p.width, true, kept[i]);
  }
}

/* Widths that moe_combine_norm_kernel takes, of rows aligned to 16 bytes. */
inline bool combines_width(i32 width) { return width > NORM_NARROW && width <= COMBINE_WIDEST && width % 4 == 0; }

template <bool SHARED>
i32 launch_combine_norm(const char* op, const CombineArguments& p, i32 tokens) {
  const i32 pieces = PSI_DIVIDE_UP(p.width, 4 * NORM_THREADS);
  const auto kernel = pieces == 1 ? moe_combine_norm_kernel<1, SHARED> : pieces == 2 ? moe_combine_norm_kernel<2, SHARED> : moe_combine_norm_kernel<4, SHARED>;
  return launch(op, kernel, dim3((u32)tokens), dim3(NORM_THREADS), 0, p);
}

}  // namespace psi
