/* Sums and maxima over a block of whole warps, in one fixed order: a tree over lanes, then over the warps. */
#pragma once
#include "instructions.h"

namespace psi {

/* Every thread gets the sum. `shared` has room for 32 floats and is free again after the next barrier but one. */
__device__ __forceinline__ float block_sum(float v, float* shared) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  v = warp_sum(v);
  if (lane == 0) shared[warp] = v;
  __syncthreads();
  v = warp_sum(lane < warps ? shared[lane] : 0.0f);
  return v;
}
__device__ __forceinline__ float block_max(float v, float* shared) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  v = warp_max(v);
  if (lane == 0) shared[warp] = v;
  __syncthreads();
  v = warp_max(lane < warps ? shared[lane] : -INFINITY);
  return v;
}

}  // namespace psi
