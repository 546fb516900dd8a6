/*
 * sum = x + delta; y = RMS norm of sum times w; ids and weights: the experts chosen by logits y . router_w (+ bias). For few
 * tokens, where what separates the ops it replaces is the time between kernels; their bits (add_rms_norm, matmul over F32
 * weights, router). A token has a block per expert, or per 4: each norms the token for itself and makes its logits. The last one
 * waits for those of all, chooses and writes, for then all have read what `sum` may lie over. It finds that a logit is there in
 * the word that holds it: neither a fence nor a counter lies between.
 */
#include "norm.cuh"
#include "router.cuh"

namespace psi {

constexpr i32 ROUTE_WIDEST = 4 * NORM_THREADS * NORM_KEPT; /* rows that the norm keeps in registers */
constexpr i32 ROUTE_ROWS = 64, ROUTE_EXPERTS = 1024;
constexpr i32 ROUTE_BLOCKS = 1024; /* with a block per expert no more than these */

/* Above the logit's bits 1 once it is there; 0 between launches. Read and written whole. */
__device__ unsigned long long route_logits[ROUTE_ROWS * ROUTE_EXPERTS];

struct AddNormRouterArguments {
  float *sum, *y;
  i32* ids;
  float* weights;
  const float *x, *delta, *w, *router_w, *router_bias;
  i32 width;
  float eps;
  RouterArguments router;
};

/* EACH: experts of a block. */
template <int EACH>
__global__ void __launch_bounds__(NORM_THREADS) add_norm_router_kernel(const __grid_constant__ AddNormRouterArguments p) {
  PSI_DYNAMIC_SHARED(memory);
  __shared__ float shared[32], products[EACH][NORM_THREADS / 32];
  let_next_start();
  const i32 thread = threadIdx.x, lane = thread % 32, warp = thread / 32, row = blockIdx.y, experts = p.router.experts;
  const i32 first = blockIdx.x * EACH;
  const i64 at = (i64)row * p.width;
  NormPiece kept[NORM_KEPT], weights[NORM_KEPT];
  float4 router[EACH][NORM_KEPT];
#pragma unroll
  for (int i = 0; i < NORM_KEPT; i++) {
    const i32 k = (thread + i * NORM_THREADS) * 4;
    if (k >= p.width) break;
    weights[i] = read_piece(p.w, k, p.width, true);
#pragma unroll
    for (int e = 0; e < EACH; e++) router[e][i] = *(const float4*)(p.router_w + (i64)min(first + e, experts - 1) * p.width + k);
  }
  wait_for_inputs();
  float squares = 0.0f;
#pragma unroll
  for (int i = 0; i < NORM_KEPT; i++) {
    const i32 k = (thread + i * NORM_THREADS) * 4;
    if (k >= p.width) break;
    kept[i] = read_piece(p.x + at, k, p.width, true);
    const NormPiece d = read_piece(p.delta + at, k, p.width, true);
    for (int j = 0; j < 4; j++) kept[i].v[j] += d.v[j];
    for (int j = 0; j < 4; j++) squares = fmaf(kept[i].v[j], kept[i].v[j], squares);
  }
  squares = block_sum(squares, shared);
  const float scale = 1.0f / sqrtf(squares / (float)p.width + p.eps);
  float dot[EACH] = {};
#pragma unroll
  for (int i = 0; i < NORM_KEPT; i++) {
    if ((thread + i * NORM_THREADS) * 4 >= p.width) break;
    for (int j = 0; j < 4; j++) weights[i].v[j] = kept[i].v[j] * scale * weights[i].v[j]; /* y */
#pragma unroll
    for (int e = 0; e < EACH; e++) {
      dot[e] = fmaf(weights[i].v[0], router[e][i].x, dot[e]);
      dot[e] = fmaf(weights[i].v[1], router[e][i].y, dot[e]);
      dot[e] = fmaf(weights[i].v[2], router[e][i].z, dot[e]);
      dot[e] = fmaf(weights[i].v[3], router[e][i].w, dot[e]);
    }
  }
#pragma unroll
  for (int e = 0; e < EACH; e++) {
    dot[e] = warp_sum(dot[e]);
    if (lane == 0) products[e][warp] = dot[e];
  }
  __syncthreads();
  if (thread == 0) {
#pragma unroll
    for (int e = 0; e < EACH; e++) {
      if (first + e >= experts) break;
      float z = products[e][0];
      for (int v = 1; v < NORM_THREADS / 32; v++) z += products[e][v];
      if (p.router_bias) z += p.router_bias[first + e];
      *(volatile unsigned long long*)(route_logits + row * ROUTE_EXPERTS + first + e) = 1ull << 32 | __float_as_uint(z);
    }
  }
  /* blocks begin in order, so that those waited for have begun; none of them waits, and no later kernel's is there before all of them */
  if (blockIdx.x != gridDim.x - 1) return;
  __syncthreads(); /* this block's own are written */
  float* logits = (float*)memory; /* [experts] */
  for (i32 e = thread; e < experts; e += NORM_THREADS) {
    volatile unsigned long long* from = route_logits + row * ROUTE_EXPERTS + e;
    unsigned long long word;
    do word = *from;
    while (!(word >> 32));
    logits[e] = __uint_as_float((u32)word);
    *from = 0;
  }
  __syncthreads(); /* all have read x */
  u32* words = (u32*)(logits + in_fours(experts));
  if (routes_by_block<NORM_THREADS>(experts, p.router.used))
    route_by_block<NORM_THREADS>(p.router, p.ids + row * p.router.used, p.weights + row * p.router.used, logits, words);
  else if (warp == 0)
    route_token(p.router, p.ids + row * p.router.used, p.weights + row * p.router.used, logits, words);
#pragma unroll
  for (int i = 0; i < NORM_KEPT; i++) {
    const i32 k = (thread + i * NORM_THREADS) * 4;
    if (k >= p.width) break;
    write_piece(p.sum + at, k, p.width, true, kept[i]);
    write_piece(p.y + at, k, p.width, true, weights[i]);
  }
}

}  // namespace psi

PSI_API i32 psi_add_norm_router(void* sum, void* y, void* ids, void* weights, const void* x, const void* delta, const void* w, const void* router_w, const void* router_bias, i32 rows, i32 width, i32 experts, i32 used, i32 mode, i32 normalize, f32 eps, f32 scale) {
  using namespace psi;
  const char* op = "psi_add_norm_router";
  if (!sum || !y || !ids || !weights || !x || !delta || !w || !router_w) return fail(PSI_INVALID, "[%s] expected non-null pointers.", op);
  if (width <= NORM_NARROW || width > ROUTE_WIDEST || width % 4 != 0)
    return fail(PSI_UNSUPPORTED, "[%s] expected a width of %d to %d in fours, got %d.", op, NORM_NARROW + 4, ROUTE_WIDEST, width);
  if (rows < 0 || rows > ROUTE_ROWS) return fail(PSI_UNSUPPORTED, "[%s] expected at most %d rows, got %d.", op, ROUTE_ROWS, rows);
  if (experts < 1 || experts > ROUTE_EXPERTS || used < 1 || used > experts)
    return fail(PSI_UNSUPPORTED, "[%s] expected 1 to %d experts and used within them, got %d and %d.", op, ROUTE_EXPERTS, experts, used);
  if (mode < 1 || mode > 3) return fail(PSI_INVALID, "[%s] expected mode 1, 2 or 3, got %d.", op, mode);
  const uintptr_t all = (uintptr_t)sum | (uintptr_t)y | (uintptr_t)x | (uintptr_t)delta | (uintptr_t)w | (uintptr_t)router_w;
  if (all % 16 != 0) return fail(PSI_INVALID, "[%s] expected rows aligned to 16 bytes.", op);
  const RouterArguments r = {experts, used, mode, normalize, scale, nullptr, nullptr};
  const AddNormRouterArguments p = {(float*)sum, (float*)y, (i32*)ids, (float*)weights, (const float*)x, (const float*)delta, (const float*)w,
                                    (const float*)router_w, (const float*)router_bias, width, eps, r};
  const i32 words = routes_by_block<NORM_THREADS>(experts, used) ? router_block_words<NORM_THREADS>(used) : router_words(experts, used);
  const size_t bytes = (size_t)(in_fours(experts) + words) * 4;
  if (rows * experts <= ROUTE_BLOCKS)
    return launch(op, add_norm_router_kernel<1>, dim3((unsigned)experts, (unsigned)rows), dim3(NORM_THREADS), bytes, p);
  return launch(op, add_norm_router_kernel<4>, dim3((unsigned)PSI_DIVIDE_UP(experts, 4), (unsigned)rows), dim3(NORM_THREADS), bytes, p);
}
