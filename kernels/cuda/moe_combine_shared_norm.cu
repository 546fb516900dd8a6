/*
 * sum = base + (sum over j of weights[t,j] * x[t*used+j]) + sigmoid(b . gate_w) * shared; y = RMS norm of sum times w: the bits of
 * psi_moe_combine_add, psi_matmul over F32 weights, psi_add_gated and psi_rms_norm. A block makes a token: its thread t has every
 * 256th piece of 4 columns from t on, as in all of those.
 */
#include "glu.cuh"
#include "norm.cuh"

namespace psi {

constexpr i32 COMBINE_WIDEST = 4 * NORM_THREADS * NORM_KEPT; /* rows that the norm keeps in registers */

struct CombineSharedArguments {
  float *sum, *y;
  const float *base, *x, *weights, *shared, *b, *gate_w, *w;
  i32 used, width;
  float eps;
};

/* COUNT: pieces of a thread. */
template <int COUNT>
__global__ void __launch_bounds__(NORM_THREADS) moe_combine_shared_norm_kernel(const __grid_constant__ CombineSharedArguments p) {
  __shared__ float dots[NORM_THREADS / 32], squares_of[32];
  let_next_start();
  const i32 thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const i64 row = blockIdx.x, at = row * p.width;
  NormPiece gate_w[COUNT], w[COUNT], kept[COUNT], shared[COUNT];
  const auto column = [&](int i) { return (thread + i * NORM_THREADS) * 4; };
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
    gate_w[i] = w[i] = kept[i] = shared[i] = {};
    if (column(i) >= p.width) continue;
    gate_w[i] = read_piece(p.gate_w, column(i), p.width, true);
    w[i] = read_piece(p.w, column(i), p.width, true);
  }
  wait_for_inputs();
  float dot = 0.0f;
  NormPiece parts[COUNT] = {};
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
    if (column(i) >= p.width) continue;
    shared[i] = read_piece(p.shared + at, column(i), p.width, true);
    kept[i] = read_piece(p.base + at, column(i), p.width, true);
  }
#pragma unroll 8
  for (i32 j = 0; j < p.used; j++) {
    const float weight = p.weights[row * p.used + j];
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      if (column(i) >= p.width) continue;
      const NormPiece part = read_piece(p.x + (row * p.used + j) * p.width, column(i), p.width, true);
      for (int e = 0; e < 4; e++) parts[i].v[e] = __fmaf_rn(weight, part.v[e], parts[i].v[e]);
    }
  }
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
    if (column(i) >= p.width) continue;
    const NormPiece b = read_piece(p.b + at, column(i), p.width, true);
    for (int e = 0; e < 4; e++) kept[i].v[e] = __fadd_rn(kept[i].v[e], parts[i].v[e]);
    for (int e = 0; e < 4; e++) dot = fmaf(b.v[e], gate_w[i].v[e], dot);
  }
  dot = warp_sum(dot);
  if (lane == 0) dots[warp] = dot;
  __syncthreads();
  float gate = dots[0];
  for (int other = 1; other < NORM_THREADS / 32; other++) gate += dots[other];
  const float factor = gate_sigmoid(gate);
  float squares = 0.0f;
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
    if (column(i) >= p.width) continue;
    for (int e = 0; e < 4; e++) kept[i].v[e] = __fmaf_rn(factor, shared[i].v[e], kept[i].v[e]);
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

}  // namespace psi

PSI_API i32 psi_moe_combine_shared_norm(void* sum, void* y, const void* base, const void* x, const void* weights, const void* shared, const void* b, const void* gate_w, const void* w, i32 tokens, i32 used, i32 width, f32 eps) {
  using namespace psi;
  const char* op = "psi_moe_combine_shared_norm";
  if (!sum || !y || !base || !x || !weights || !shared || !b || !gate_w || !w || tokens < 0 || used < 1)
    return fail(PSI_INVALID, "[%s] expected non-null pointers and positive sizes, got %d, %d, %d.", op, tokens, used, width);
  if (width <= NORM_NARROW || width > COMBINE_WIDEST || width % 4 != 0)
    return fail(PSI_UNSUPPORTED, "[%s] expected a width of %d to %d in fours, got %d.", op, NORM_NARROW + 4, COMBINE_WIDEST, width);
  const uintptr_t all = (uintptr_t)sum | (uintptr_t)y | (uintptr_t)base | (uintptr_t)x | (uintptr_t)shared | (uintptr_t)b | (uintptr_t)gate_w | (uintptr_t)w;
  if (all % 16 != 0) return fail(PSI_INVALID, "[%s] expected rows aligned to 16 bytes.", op);
  const CombineSharedArguments p = {(float*)sum, (float*)y, (const float*)base, (const float*)x, (const float*)weights, (const float*)shared, (const float*)b, (const float*)gate_w, (const float*)w, used, width, eps};
  const i32 pieces = PSI_DIVIDE_UP(width, 4 * NORM_THREADS);
  const auto kernel = pieces == 1 ? moe_combine_shared_norm_kernel<1> : pieces == 2 ? moe_combine_shared_norm_kernel<2> : moe_combine_shared_norm_kernel<4>;
  return launch(op, kernel, dim3((u32)tokens), dim3(NORM_THREADS), 0, p);
}
