/*
 * sum = x + delta; y = RMS norm of sum times w; ids and weights: the experts chosen by logits y . router_w (+ bias). For few
 * tokens, where what separates the ops it replaces is the time between kernels; their bits (add_rms_norm, matmul over F32
 * weights, router). A token has a block per expert, or per 4: each norms the token for itself and makes its logits, and the
 * one that finishes last chooses and writes, for then all have read what `sum` may lie over.
 * psi_norm_add_norms_router: delta is normed before it is added, and of the sum there are three norms, by y_w, z_w and r_w: y, z,
 * and what the router reads.
 */
#include "norm_join.cuh"
#include "router.cuh"

namespace psi {

constexpr i32 ROUTE_WIDEST = 4 * NORM_THREADS * NORM_KEPT; /* rows that the norm keeps in registers */
constexpr i32 ROUTE_ROWS = 64, ROUTE_EXPERTS = 1024;
constexpr i32 ROUTE_BLOCKS = 1024; /* with a block per expert no more than these */
constexpr i32 ROUTE_SINGLE = 128;  /* of more experts a block has 4: fewer have to count themselves */

__device__ float route_logits[ROUTE_ROWS * ROUTE_EXPERTS];
__device__ u32 route_arrived[ROUTE_ROWS]; /* 0 between launches */

struct AddNormRouterArguments {
  float *sum, *y;
  i32* ids;
  float* weights;
  const float *x, *delta, *w, *router_w, *router_bias; /* w: of what the router reads */
  i32 width;
  float eps;
  RouterArguments router;
  const float *delta_w = nullptr, *y_w = nullptr, *z_w = nullptr; /* JOINED: y and z are norms of their own */
  float* z = nullptr;
};

/* EACH: experts of a block. */
template <int EACH, bool JOINED>
__global__ void __launch_bounds__(NORM_THREADS) add_norm_router_kernel(const __grid_constant__ AddNormRouterArguments p) {
  PSI_DYNAMIC_SHARED(memory);
  __shared__ float shared[32], delta_shared[32], products[EACH][NORM_THREADS / 32];
  __shared__ u32 before;
  let_next_start();
  const i32 thread = threadIdx.x, lane = thread % 32, warp = thread / 32, row = blockIdx.y, experts = p.router.experts;
  const i32 first = blockIdx.x * EACH;
  const i64 at = (i64)row * p.width;
  NormPiece kept[NORM_KEPT], weights[NORM_KEPT], delta_w[NORM_KEPT], y_w[NORM_KEPT], z_w[NORM_KEPT];
  float4 router[EACH][NORM_KEPT];
  if constexpr (JOINED) {
    read_row<NORM_THREADS>(delta_w, p.delta_w, p.width, thread);
    if (blockIdx.x == 0) { /* writes y and z */
      read_row<NORM_THREADS>(y_w, p.y_w, p.width, thread);
      read_row<NORM_THREADS>(z_w, p.z_w, p.width, thread);
    }
  }
#pragma unroll
  for (int i = 0; i < NORM_KEPT; i++) {
    const i32 k = (thread + i * NORM_THREADS) * 4;
    if (k >= p.width) break;
    weights[i] = read_piece(p.w, k, p.width, true);
#pragma unroll
    for (int e = 0; e < EACH; e++) router[e][i] = *(const float4*)(p.router_w + (i64)min(first + e, experts - 1) * p.width + k);
  }
  wait_for_inputs();
  NormPiece delta[NORM_KEPT];
  read_row<NORM_THREADS>(kept, p.x + at, p.width, thread);
  read_row<NORM_THREADS>(delta, p.delta + at, p.width, thread);
  if constexpr (JOINED) {
    const float delta_scale = norm_scale<NORM_THREADS>(delta, p.width, p.eps, thread, delta_shared);
    each_piece<NORM_THREADS, NORM_KEPT>(p.width, thread, [&](int i, i32) { delta[i] = normed(delta[i], delta_scale, delta_w[i]); });
  }
  each_piece<NORM_THREADS, NORM_KEPT>(p.width, thread, [&](int i, i32) { kept[i] = added(kept[i], delta[i]); });
  const float scale = norm_scale<NORM_THREADS>(kept, p.width, p.eps, thread, shared);
  if constexpr (JOINED)
    if (blockIdx.x == 0)
      each_piece<NORM_THREADS, NORM_KEPT>(p.width, thread, [&](int i, i32 k) {
        write_piece(p.y + at, k, p.width, true, normed(kept[i], scale, y_w[i]));
        write_piece(p.z + at, k, p.width, true, normed(kept[i], scale, z_w[i]));
      });
  float dot[EACH] = {};
#pragma unroll
  for (int i = 0; i < NORM_KEPT; i++) {
    if ((thread + i * NORM_THREADS) * 4 >= p.width) break;
    weights[i] = normed(kept[i], scale, weights[i]); /* y, if not JOINED */
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
  if (warp == 0) {
    if (lane < EACH && first + lane < experts) {
      float z = products[lane][0];
      for (int v = 1; v < NORM_THREADS / 32; v++) z += products[lane][v];
      route_logits[row * ROUTE_EXPERTS + first + lane] = p.router_bias ? z + p.router_bias[first + lane] : z;
      __threadfence();
    }
    __syncwarp();
    if (lane == 0) {
      before = atomicAdd(route_arrived + row, 1u);
      __threadfence();
    }
  }
  __syncthreads();
  if (before != gridDim.x - 1) return;
  if (thread == 0) route_arrived[row] = 0;
  float* logits = (float*)memory; /* [experts] */
  for (i32 e = thread; e < experts; e += NORM_THREADS) logits[e] = *(volatile const float*)(route_logits + row * ROUTE_EXPERTS + e); /* of other multiprocessors: not from L1 */
#pragma unroll
  for (int i = 0; i < NORM_KEPT; i++) {
    const i32 k = (thread + i * NORM_THREADS) * 4;
    if (k >= p.width) break;
    write_piece(p.sum + at, k, p.width, true, kept[i]);
    if constexpr (!JOINED) write_piece(p.y + at, k, p.width, true, weights[i]);
  }
  __syncthreads();
  if (warp == 0) route_token(p.router, p.ids + row * p.router.used, p.weights + row * p.router.used, logits, (u32*)(logits + experts));
}

/* What both launchers ask for, then the kernel. */
template <bool JOINED>
static i32 launch_add_norm_router(const char* op, const AddNormRouterArguments& p, i32 rows) {
  const RouterArguments& r = p.router;
  if (!p.sum || !p.y || !p.ids || !p.weights || !p.x || !p.delta || !p.w || !p.router_w || (JOINED && (!p.z || !p.delta_w || !p.y_w || !p.z_w)))
    return fail(PSI_INVALID, "[%s] expected non-null pointers.", op);
  if (p.width <= NORM_NARROW || p.width > ROUTE_WIDEST || p.width % 4 != 0)
    return fail(PSI_UNSUPPORTED, "[%s] expected a width of %d to %d in fours, got %d.", op, NORM_NARROW + 4, ROUTE_WIDEST, p.width);
  if (rows < 0 || rows > ROUTE_ROWS) return fail(PSI_UNSUPPORTED, "[%s] expected at most %d rows, got %d.", op, ROUTE_ROWS, rows);
  if (r.experts < 1 || r.experts > ROUTE_EXPERTS || r.used < 1 || r.used > r.experts)
    return fail(PSI_UNSUPPORTED, "[%s] expected 1 to %d experts and used within them, got %d and %d.", op, ROUTE_EXPERTS, r.experts, r.used);
  if (r.mode < 1 || r.mode > 3) return fail(PSI_INVALID, "[%s] expected mode 1, 2 or 3, got %d.", op, r.mode);
  const uintptr_t all = (uintptr_t)p.sum | (uintptr_t)p.y | (uintptr_t)p.z | (uintptr_t)p.x | (uintptr_t)p.delta | (uintptr_t)p.w | (uintptr_t)p.router_w |
                        (uintptr_t)p.delta_w | (uintptr_t)p.y_w | (uintptr_t)p.z_w;
  if (all % 16 != 0) return fail(PSI_INVALID, "[%s] expected rows aligned to 16 bytes.", op);
  const size_t bytes = (size_t)(r.experts + router_words(r.experts, r.used)) * 4;
  if (r.experts <= ROUTE_SINGLE && rows * r.experts <= ROUTE_BLOCKS)
    return launch(op, add_norm_router_kernel<1, JOINED>, dim3((unsigned)r.experts, (unsigned)rows), dim3(NORM_THREADS), bytes, p);
  return launch(op, add_norm_router_kernel<4, JOINED>, dim3((unsigned)PSI_DIVIDE_UP(r.experts, 4), (unsigned)rows), dim3(NORM_THREADS), bytes, p);
}

}  // namespace psi

PSI_API i32 psi_add_norm_router(void* sum, void* y, void* ids, void* weights, const void* x, const void* delta, const void* w, const void* router_w, const void* router_bias, i32 rows, i32 width, i32 experts, i32 used, i32 mode, i32 normalize, f32 eps, f32 scale) {
  using namespace psi;
  const RouterArguments r = {experts, used, mode, normalize, scale, nullptr, nullptr};
  return launch_add_norm_router<false>("psi_add_norm_router",
                                       {(float*)sum, (float*)y, (i32*)ids, (float*)weights, (const float*)x, (const float*)delta, (const float*)w,
                                        (const float*)router_w, (const float*)router_bias, width, eps, r},
                                       rows);
}

PSI_API i32 psi_norm_add_norms_router(void* sum, void* y, void* z, void* ids, void* weights, const void* x, const void* delta, const void* w, const void* y_w, const void* z_w, const void* r_w, const void* router_w, const void* expert_scale, i32 rows, i32 width, i32 experts, i32 used, i32 mode, i32 normalize, f32 eps, f32 scale) {
  using namespace psi;
  const RouterArguments r = {experts, used, mode, normalize, scale, nullptr, (const float*)expert_scale};
  AddNormRouterArguments p = {(float*)sum, (float*)y, (i32*)ids, (float*)weights, (const float*)x, (const float*)delta, (const float*)r_w,
                              (const float*)router_w, nullptr, width, eps, r};
  p.delta_w = (const float*)w, p.y_w = (const float*)y_w, p.z_w = (const float*)z_w, p.z = (float*)z;
  return launch_add_norm_router<true>("psi_norm_add_norms_router", p, rows);
}
