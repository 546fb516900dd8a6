/*
 * ids[r] = position of the largest of x[r, :], the lowest on ties; NaN never wins (a row of NaN or -inf gives 0). Blocks
 * of 1024 threads take pieces of a row, and the one that finishes last compares what they found; the order does not matter.
 */
#include "instructions.h"

namespace psi {

constexpr int ARGMAX_THREADS = 1024;
constexpr i32 ARGMAX_PIECE = 8192, ARGMAX_PIECES = 32, ARGMAX_ROWS = 64; /* rows beyond are one block's each */

struct Best {
  float value;
  i32 place;
};
__device__ __forceinline__ Best better(Best a, Best b) { return b.value > a.value || (b.value == a.value && b.place < a.place) ? b : a; }
__device__ __forceinline__ Best best_of_warp(Best b) {
  for (int mask = 16; mask > 0; mask >>= 1) b = better(b, {__shfl_xor_sync(~0u, b.value, mask), __shfl_xor_sync(~0u, b.place, mask)});
  return b;
}

__device__ Best piece_bests[ARGMAX_ROWS][ARGMAX_PIECES];
__device__ u32 pieces_done[ARGMAX_ROWS]; /* 0 between launches */

/* `piece` elements from blockIdx.y * piece on: a multiple of 4. */
__global__ void __launch_bounds__(ARGMAX_THREADS) argmax_kernel(i32* ids, const float* x, i32 all, i32 piece) {
  __shared__ Best bests[32];
  __shared__ u32 before;
  let_next_start();
  wait_for_inputs();
  const i32 from = blockIdx.y * piece, width = min(piece, all - from);
  const float* row = x + (i64)blockIdx.x * all + from;
  const i32 nowhere = 0x7fffffff;
  Best best = {-INFINITY, nowhere};
  auto take = [&](float v, i32 k) {
    if (v > best.value) best = {v, k};
  };
  i32 k = threadIdx.x * 4;
  if (all % 4 == 0 && (uintptr_t)x % 16 == 0) {
    constexpr int FLIGHT = 4, STEP = ARGMAX_THREADS * 4;
    for (; k + (FLIGHT - 1) * STEP + 4 <= width; k += FLIGHT * STEP) {
      float4 v[FLIGHT];
#pragma unroll
      for (int i = 0; i < FLIGHT; i++) v[i] = *(const float4*)(row + k + i * STEP);
#pragma unroll
      for (int i = 0; i < FLIGHT; i++) take(v[i].x, k + i * STEP), take(v[i].y, k + i * STEP + 1), take(v[i].z, k + i * STEP + 2), take(v[i].w, k + i * STEP + 3);
    }
  }
  for (; k < width; k += ARGMAX_THREADS * 4)
    for (i32 i = k; i < min(k + 4, width); i++) take(row[i], i);
  best = best_of_warp(best);
  if (threadIdx.x % 32 == 0) bests[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  best = best_of_warp(bests[threadIdx.x]);
  if (best.place != nowhere) best.place += from;
  if (gridDim.y > 1) {
    if (threadIdx.x == 0) {
      piece_bests[blockIdx.x][blockIdx.y] = best;
      __threadfence();
      before = atomicAdd(pieces_done + blockIdx.x, 1u);
      __threadfence();
    }
    __syncwarp();
    if (before != gridDim.y - 1) return;
    const volatile Best* found = &piece_bests[blockIdx.x][min((i32)threadIdx.x, (i32)gridDim.y - 1)];
    best = best_of_warp({found->value, found->place});
    if (threadIdx.x == 0) pieces_done[blockIdx.x] = 0;
  }
  if (threadIdx.x == 0) ids[blockIdx.x] = best.place == nowhere ? 0 : best.place;
}

}  // namespace psi

PSI_API i32 psi_argmax(void* ids, const void* x, i32 rows, i32 width) {
  using namespace psi;
  if (!ids || !x || rows < 0 || width < 1) return fail(PSI_INVALID, "[psi_argmax] expected non-null pointers and a width, got %d x %d.", rows, width);
  const i32 piece = rows > ARGMAX_ROWS ? width : max(ARGMAX_PIECE, PSI_DIVIDE_UP(PSI_DIVIDE_UP(width, ARGMAX_PIECES), 4) * 4);
  return launch("psi_argmax", argmax_kernel, dim3((unsigned)rows, (unsigned)PSI_DIVIDE_UP(width, piece)), dim3(ARGMAX_THREADS), 0, (i32*)ids, (const float*)x, width, piece);
}
