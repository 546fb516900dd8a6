/*
 * sum = x + N(delta; w); y = N(sum; y_w), z = N(sum; z_w); ids and weights: the experts chosen by logits N(sum; r_w) . router_w. N(a; b)
 * is the RMS norm of a times b. For few rows, with the bits of rms_norm, add_rms_norm, two rms_norm, matmul over F32 weights and
 * router. Two kernels: a block per row for the norms; then a block per expert and 8 rows, which has the expert's weights before
 * the norms are there, makes the logits, and, where it is the last to finish, chooses for its rows, a warp for each. For a row or
 * two one kernel, each of whose blocks makes the norms for itself.
 */
#include "norm_join.cuh"
#include "router.cuh"

namespace psi {

constexpr i32 ROUTE_WIDEST = held_width(NORM_KEPT); /* rows that the norms keep in registers */
constexpr i32 FEW_ROUTE_ROWS = 2, ROUTE_ROWS = 64, ROUTE_EXPERTS = 1024, ROUTE_TOGETHER = NORM_THREADS / 32; /* rows of a block */

static __device__ float route_normed[ROUTE_ROWS * ROUTE_WIDEST]; /* what the router reads */
static __device__ float route_logits[ROUTE_ROWS * ROUTE_EXPERTS];
static __device__ u32 route_arrived[ROUTE_ROWS / ROUTE_TOGETHER]; /* 0 between launches */

struct NormAddNorms {
  float *sum, *y, *z;
  const float *x, *delta, *w, *y_w, *z_w, *r_w;
  i32 width;
  float eps;
};

__global__ void __launch_bounds__(NORM_THREADS) norm_add_norms_kernel(const __grid_constant__ NormAddNorms p) {
  __shared__ float shared[2][32];
  let_next_start();
  const i32 thread = threadIdx.x, width = p.width;
  const i64 at = (i64)blockIdx.x * width;
  NormPiece w[NORM_KEPT], y_w[NORM_KEPT], z_w[NORM_KEPT], r_w[NORM_KEPT], s[NORM_KEPT], delta[NORM_KEPT];
  read_row<NORM_THREADS>(w, p.w, width, thread);
  read_row<NORM_THREADS>(y_w, p.y_w, width, thread);
  read_row<NORM_THREADS>(z_w, p.z_w, width, thread);
  read_row<NORM_THREADS>(r_w, p.r_w, width, thread);
  wait_for_inputs();
  read_row<NORM_THREADS>(delta, p.delta + at, width, thread);
  read_row<NORM_THREADS>(s, p.x + at, width, thread);
  const float of_delta = norm_scale<NORM_THREADS>(delta, width, p.eps, thread, shared[0]);
  each_piece<NORM_THREADS, NORM_KEPT>(width, thread, [&](int i, i32 k) {
    s[i] = added(s[i], normed(delta[i], of_delta, w[i]));
    write_piece(p.sum + at, k, width, true, s[i]);
  });
  const float scale = norm_scale<NORM_THREADS>(s, width, p.eps, thread, shared[1]);
  each_piece<NORM_THREADS, NORM_KEPT>(width, thread, [&](int i, i32 k) {
    write_piece(route_normed + at, k, width, true, normed(s[i], scale, r_w[i]));
    write_piece(p.y + at, k, width, true, normed(s[i], scale, y_w[i]));
    write_piece(p.z + at, k, width, true, normed(s[i], scale, z_w[i]));
  });
}

struct RouteRows {
  const float* router_w;
  i32* ids;
  float* weights;
  i32 rows, width;
  RouterArguments router;
};

/* Scales of experts in shared memory, read before the choice, which would wait for them. For all threads, before a barrier. */
__device__ __forceinline__ RouterArguments with_scales(RouterArguments r, float* scales) {
  if (!r.expert_scale) return r;
  for (i32 e = threadIdx.x; e < r.experts; e += NORM_THREADS) scales[e] = r.expert_scale[e];
  r.expert_scale = scales;
  return r;
}

/* A warp's choice for a row, `own` being its shared memory. */
__device__ __forceinline__ void choose(const RouteRows& p, const RouterArguments& choice, i64 row, u32* own) {
  const i32 lane = threadIdx.x % 32, experts = choice.experts;
  float* logits = (float*)own;
  for (i32 e = lane; e < experts; e += 32) logits[e] = *(volatile const float*)(route_logits + row * ROUTE_EXPERTS + e); /* of other multiprocessors: not from L1 */
  __syncwarp();
  route_token(choice, p.ids + row * choice.used, p.weights + row * choice.used, logits, own + experts);
}

/* A block per expert and row; the last of a row writes sum, for then all have read what it may lie over. */
__global__ void __launch_bounds__(NORM_THREADS) norm_and_route_kernel(const __grid_constant__ NormAddNorms n, const __grid_constant__ RouteRows p) {
  PSI_DYNAMIC_SHARED(memory);
  __shared__ float shared[2][32], products[NORM_THREADS / 32];
  __shared__ u32 before;
  let_next_start();
  const i32 thread = threadIdx.x, expert = blockIdx.x, row = blockIdx.y, width = n.width;
  const i64 at = (i64)row * width;
  NormPiece w[NORM_KEPT], y_w[NORM_KEPT], z_w[NORM_KEPT], r_w[NORM_KEPT], router[NORM_KEPT], s[NORM_KEPT], delta[NORM_KEPT];
  read_row<NORM_THREADS>(router, p.router_w + (i64)expert * width, width, thread);
  read_row<NORM_THREADS>(w, n.w, width, thread);
  read_row<NORM_THREADS>(r_w, n.r_w, width, thread);
  if (expert == 0) {
    read_row<NORM_THREADS>(y_w, n.y_w, width, thread);
    read_row<NORM_THREADS>(z_w, n.z_w, width, thread);
  }
  const RouterArguments choice = with_scales(p.router, (float*)memory);
  wait_for_inputs();
  read_row<NORM_THREADS>(delta, n.delta + at, width, thread);
  read_row<NORM_THREADS>(s, n.x + at, width, thread);
  const float of_delta = norm_scale<NORM_THREADS>(delta, width, n.eps, thread, shared[0]);
  each_piece<NORM_THREADS, NORM_KEPT>(width, thread, [&](int i, i32) { s[i] = added(s[i], normed(delta[i], of_delta, w[i])); });
  const float scale = norm_scale<NORM_THREADS>(s, width, n.eps, thread, shared[1]);
  float dot = 0.0f;
  each_piece<NORM_THREADS, NORM_KEPT>(width, thread, [&](int i, i32) {
    const NormPiece r = normed(s[i], scale, r_w[i]);
    for (int j = 0; j < 4; j++) dot = fmaf(r.v[j], router[i].v[j], dot);
  });
  dot = warp_sum(dot);
  if (thread % 32 == 0) products[thread / 32] = dot;
  __syncthreads();
  if (thread == 0) {
    float z = products[0];
    for (int v = 1; v < NORM_THREADS / 32; v++) z += products[v];
    route_logits[row * ROUTE_EXPERTS + expert] = z;
    __threadfence();
    before = atomicAdd(route_arrived + row, 1u);
    __threadfence();
  }
  if (expert == 0)
    each_piece<NORM_THREADS, NORM_KEPT>(width, thread, [&](int i, i32 k) {
      write_piece(n.y + at, k, width, true, normed(s[i], scale, y_w[i]));
      write_piece(n.z + at, k, width, true, normed(s[i], scale, z_w[i]));
    });
  __syncthreads();
  if (before != gridDim.x - 1) return;
  if (thread == 0) route_arrived[row] = 0;
  each_piece<NORM_THREADS, NORM_KEPT>(width, thread, [&](int i, i32 k) { write_piece(n.sum + at, k, width, true, s[i]); });
  u32* own = (u32*)memory + in_fours(choice.experts);
  if (routes_by_block<NORM_THREADS>(choice.experts, choice.used)) {
    float* logits = (float*)own;
    if (thread < choice.experts) logits[thread] = *(volatile const float*)(route_logits + row * ROUTE_EXPERTS + thread);
    __syncthreads();
    route_by_block<NORM_THREADS>(choice, p.ids + row * choice.used, p.weights + row * choice.used, logits, own + in_fours(choice.experts));
  } else if (thread < 32) {
    choose(p, choice, row, own);
  }
}

__global__ void __launch_bounds__(NORM_THREADS) route_rows_kernel(const __grid_constant__ RouteRows p) {
  constexpr int AT_ONCE = 4; /* rows whose sums are made side by side */
  PSI_DYNAMIC_SHARED(memory);
  __shared__ float products[ROUTE_TOGETHER][NORM_THREADS / 32];
  __shared__ u32 before;
  let_next_start();
  const i32 thread = threadIdx.x, lane = thread % 32, warp = thread / 32, expert = blockIdx.x, width = p.width, experts = p.router.experts;
  const i32 first = blockIdx.y * ROUTE_TOGETHER, count = min(ROUTE_TOGETHER, p.rows - first);
  NormPiece router[NORM_KEPT];
  read_row<NORM_THREADS>(router, p.router_w + (i64)expert * width, width, thread);
  const RouterArguments choice = with_scales(p.router, (float*)memory);
  wait_for_inputs();
#pragma unroll 1
  for (i32 base = 0; base < count; base += AT_ONCE) {
    NormPiece r[AT_ONCE][NORM_KEPT];
#pragma unroll
    for (int i = 0; i < AT_ONCE; i++) read_row<NORM_THREADS>(r[i], route_normed + (i64)(first + min(base + i, count - 1)) * width, width, thread);
#pragma unroll
    for (int i = 0; i < AT_ONCE; i++) {
      float dot = 0.0f;
      each_piece<NORM_THREADS, NORM_KEPT>(width, thread, [&](int piece, i32) {
        for (int j = 0; j < 4; j++) dot = fmaf(r[i][piece].v[j], router[piece].v[j], dot);
      });
      dot = warp_sum(dot);
      if (lane == 0 && base + i < count) products[base + i][warp] = dot;
    }
  }
  __syncthreads();
  if (thread < count) {
    float z = products[thread][0];
    for (int v = 1; v < NORM_THREADS / 32; v++) z += products[thread][v];
    route_logits[(first + thread) * ROUTE_EXPERTS + expert] = z;
    __threadfence();
  }
  __syncthreads();
  if (thread == 0) {
    before = atomicAdd(route_arrived + blockIdx.y, 1u);
    __threadfence();
  }
  __syncthreads();
  if (before != gridDim.x - 1) return;
  if (thread == 0) route_arrived[blockIdx.y] = 0;
  if (warp >= count) return;
  choose(p, choice, first + warp, (u32*)memory + experts + warp * (experts + router_words(experts, choice.used)));
}

}  // namespace psi

PSI_API i32 psi_norm_add_norms_router(void* sum, void* y, void* z, void* ids, void* weights, const void* x, const void* delta, const void* w, const void* y_w, const void* z_w, const void* r_w, const void* router_w, const void* expert_scale, i32 rows, i32 width, i32 experts, i32 used, i32 mode, i32 normalize, f32 eps, f32 scale) {
  using namespace psi;
  const char* op = "psi_norm_add_norms_router";
  if (!sum || !y || !z || !ids || !weights || !x || !delta || !w || !y_w || !z_w || !r_w || !router_w) return fail(PSI_INVALID, "[%s] expected non-null pointers.", op);
  if (width <= NORM_NARROW || width > ROUTE_WIDEST || width % 4 != 0)
    return fail(PSI_UNSUPPORTED, "[%s] expected a width of %d to %d in fours, got %d.", op, NORM_NARROW + 4, ROUTE_WIDEST, width);
  if (rows < 0 || rows > ROUTE_ROWS) return fail(PSI_UNSUPPORTED, "[%s] expected at most %d rows, got %d.", op, ROUTE_ROWS, rows);
  if (experts < 1 || experts > ROUTE_EXPERTS || used < 1 || used > experts)
    return fail(PSI_UNSUPPORTED, "[%s] expected 1 to %d experts and used within them, got %d and %d.", op, ROUTE_EXPERTS, experts, used);
  if (mode < 1 || mode > 3) return fail(PSI_INVALID, "[%s] expected mode 1, 2 or 3, got %d.", op, mode);
  const uintptr_t all = (uintptr_t)sum | (uintptr_t)y | (uintptr_t)z | (uintptr_t)x | (uintptr_t)delta | (uintptr_t)w | (uintptr_t)y_w | (uintptr_t)z_w | (uintptr_t)r_w | (uintptr_t)router_w;
  if (all % 16 != 0) return fail(PSI_INVALID, "[%s] expected rows aligned to 16 bytes.", op);
  const NormAddNorms norms = {(float*)sum, (float*)y, (float*)z, (const float*)x, (const float*)delta, (const float*)w, (const float*)y_w, (const float*)z_w, (const float*)r_w, width, eps};
  const RouteRows p = {(const float*)router_w, (i32*)ids, (float*)weights, rows, width, {experts, used, mode, normalize, scale, nullptr, (const float*)expert_scale}};
  const dim3 grid((unsigned)experts, (unsigned)PSI_DIVIDE_UP(rows, ROUTE_TOGETHER));
  if (rows <= FEW_ROUTE_ROWS) {
    const i32 words = routes_by_block<NORM_THREADS>(experts, used) ? router_block_words<NORM_THREADS>(used) : router_words(experts, used);
    return launch(op, norm_and_route_kernel, dim3((unsigned)experts, (unsigned)rows), dim3(NORM_THREADS), (size_t)(2 * in_fours(experts) + words) * 4, norms, p);
  }
  const size_t bytes = (size_t)(experts + min(rows, ROUTE_TOGETHER) * (experts + router_words(experts, used))) * 4;
  PSI_TRY(launch(op, norm_add_norms_kernel, dim3((unsigned)rows), dim3(NORM_THREADS), 0, norms));
  return launch(op, route_rows_kernel, grid, dim3(NORM_THREADS), bytes, p);
}
