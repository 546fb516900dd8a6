/*
 * sum = x + delta; y = RMS norm of sum times w; ids and weights: the experts chosen by logits y . router_w (+ bias). For
 * few tokens, where what separates the four ops it replaces is the time between kernels; their bits (add_rms_norm,
 * matmul over F32 weights, router). A block of 1024 threads per token: 8 warps norm, then each warp computes the logits
 * of every 32nd expert, then one chooses.
 */
#include "norm.cuh"
#include "router.cuh"

namespace psi {

constexpr int ROUTE_THREADS = 1024, ROUTE_WARPS = ROUTE_THREADS / 32;
constexpr i32 ROUTE_WIDEST = 4 * NORM_THREADS * NORM_KEPT; /* rows that the norm keeps in registers */

struct AddNormRouterArguments {
  float *sum, *y;
  i32* ids;
  float* weights;
  const float *x, *delta, *w, *router_w, *router_bias;
  i32 width;
  float eps;
  RouterArguments router;
};

/* One logit by a warp in matmul's order for F32 weights: thread v of 256 sums every 256th piece of 4 columns, a tree adds
   the 32 threads of each of 8 warps, then the warps in order. Lane l stands for threads l, l + 32, ... */
__device__ __forceinline__ float float_logit(const float* normed, const float* w, i32 width) {
  const i32 lane = threadIdx.x % 32;
  float sum[8] = {};
  for (i32 base = 0; base < width; base += 1024) {
    float4 weights[8];
#pragma unroll
    for (int v = 0; v < 8; v++) {
      const i32 k = base + (v * 32 + lane) * 4;
      weights[v] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      if (k < width) weights[v] = *(const float4*)(w + k);
    }
#pragma unroll
    for (int v = 0; v < 8; v++) {
      const i32 k = base + (v * 32 + lane) * 4;
      if (k >= width) continue;
      const float4 x = *(const float4*)(normed + k);
      sum[v] = fmaf(x.x, weights[v].x, sum[v]);
      sum[v] = fmaf(x.y, weights[v].y, sum[v]);
      sum[v] = fmaf(x.z, weights[v].z, sum[v]);
      sum[v] = fmaf(x.w, weights[v].w, sum[v]);
    }
  }
  float total = warp_sum(sum[0]);
#pragma unroll
  for (int v = 1; v < 8; v++) total += warp_sum(sum[v]);
  return total;
}

__global__ void __launch_bounds__(ROUTE_THREADS) add_norm_router_kernel(const __grid_constant__ AddNormRouterArguments p) {
  PSI_DYNAMIC_SHARED(memory);
  __shared__ float shared[32];
  let_next_start();
  const i32 thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const i64 row = blockIdx.x, at = row * p.width;
  float* normed = (float*)memory;                /* [width] */
  float* logits = normed + p.width;              /* [experts] */
  u32* words = (u32*)(logits + p.router.experts);
  NormPiece kept[NORM_KEPT];
  wait_for_inputs();
  float squares = 0.0f;
  if (thread < NORM_THREADS) {
#pragma unroll
    for (int i = 0; i < NORM_KEPT; i++) {
      const i32 k = (thread + i * NORM_THREADS) * 4;
      if (k >= p.width) break;
      kept[i] = read_piece(p.x + at, k, p.width, true);
      const NormPiece d = read_piece(p.delta + at, k, p.width, true);
      for (int j = 0; j < 4; j++) kept[i].v[j] += d.v[j];
      for (int j = 0; j < 4; j++) squares = fmaf(kept[i].v[j], kept[i].v[j], squares);
    }
    squares = warp_sum(squares);
    if (lane == 0) shared[warp] = squares;
  }
  __syncthreads();
  squares = warp_sum(lane < NORM_THREADS / 32 ? shared[lane] : 0.0f);
  const float scale = 1.0f / sqrtf(squares / (float)p.width + p.eps);
  if (thread < NORM_THREADS) {
#pragma unroll
    for (int i = 0; i < NORM_KEPT; i++) {
      const i32 k = (thread + i * NORM_THREADS) * 4;
      if (k >= p.width) break;
      write_piece(p.sum + at, k, p.width, true, kept[i]);
      const NormPiece w = read_piece(p.w, k, p.width, true);
      for (int j = 0; j < 4; j++) kept[i].v[j] = kept[i].v[j] * scale * w.v[j];
      write_piece(p.y + at, k, p.width, true, kept[i]);
      write_piece(normed, k, p.width, true, kept[i]);
    }
  }
  __syncthreads();
  for (i32 e = warp; e < p.router.experts; e += ROUTE_WARPS) {
    const float z = float_logit(normed, p.router_w + (i64)e * p.width, p.width);
    if (lane == 0) logits[e] = p.router_bias ? z + p.router_bias[e] : z;
  }
  __syncthreads();
  if (warp == 0) route_token(p.router, p.ids + row * p.router.used, p.weights + row * p.router.used, logits, words);
}

}  // namespace psi

PSI_API i32 psi_add_norm_router(void* sum, void* y, void* ids, void* weights, const void* x, const void* delta, const void* w, const void* router_w, const void* router_bias, i32 rows, i32 width, i32 experts, i32 used, i32 mode, i32 normalize, f32 eps, f32 scale) {
  using namespace psi;
  const char* op = "psi_add_norm_router";
  if (!sum || !y || !ids || !weights || !x || !delta || !w || !router_w) return fail(PSI_INVALID, "[%s] expected non-null pointers.", op);
  if (rows < 0 || width <= NORM_NARROW || width > ROUTE_WIDEST || width % 4 != 0)
    return fail(PSI_UNSUPPORTED, "[%s] expected a width of %d to %d in fours, got %d.", op, NORM_NARROW + 4, ROUTE_WIDEST, width);
  if (experts < 1 || experts > 1024 || used < 1 || used > experts)
    return fail(PSI_UNSUPPORTED, "[%s] expected 1 to 1024 experts and used within them, got %d and %d.", op, experts, used);
  if (mode < 1 || mode > 3) return fail(PSI_INVALID, "[%s] expected mode 1, 2 or 3, got %d.", op, mode);
  const uintptr_t all = (uintptr_t)sum | (uintptr_t)y | (uintptr_t)x | (uintptr_t)delta | (uintptr_t)w | (uintptr_t)router_w;
  if (all % 16 != 0) return fail(PSI_INVALID, "[%s] expected rows aligned to 16 bytes.", op);
  const RouterArguments r = {experts, used, mode, normalize, scale, nullptr, nullptr};
  const AddNormRouterArguments p = {(float*)sum, (float*)y, (i32*)ids, (float*)weights, (const float*)x, (const float*)delta, (const float*)w,
                                    (const float*)router_w, (const float*)router_bias, width, eps, r};
  return launch(op, add_norm_router_kernel, dim3((unsigned)rows), dim3(ROUTE_THREADS), (size_t)(width + experts + router_words(experts, used)) * 4, p);
}
