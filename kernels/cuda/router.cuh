/* A warp's choice of a token's experts (router.cu), for the kernels that route. */
#pragma once
#include "instructions.h"

namespace psi {

constexpr i32 MAX_EXPERTS = 4096;

/* Sorts like the float; NaN like -inf, both zeros alike; never 0. */
__device__ __forceinline__ u32 sortable(float key) {
  if (key != key) key = -INFINITY;
  u32 bits = __float_as_uint(key + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float raw_weight(i32 mode, float z, float top) {
  return mode == 1 ? expf(z - top) : mode == 2 ? 1.0f / (1.0f + expf(-z)) : z;
}

/* What all weights are divided by, from the chosen ones in order; they become exponentials in mode 3. */
__device__ __forceinline__ float divisor(float* chosen, i32 used, i32 mode, bool normalize, int lane) {
  if (mode == 3) {
    float first = chosen[0];
    __syncwarp();
    for (i32 j = lane; j < used; j += 32) chosen[j] = expf(chosen[j] - first);
    __syncwarp();
  } else if (!normalize) {
    return 1.0f;
  }
  float total = 0.0f;
  for (i32 j = 0; j < used; j++) total += chosen[j];
  if (mode != 3) total = total > 6.103515625e-5f ? total : 6.103515625e-5f;
  return total;
}

/* What routing needs besides the logits. */
struct RouterArguments {
  i32 experts, used, mode, normalize;
  float scale;
  const float* bias;
  const float* expert_scale;
};
/* Words of shared memory of a warp. */
__host__ __device__ constexpr i32 router_words(i32 experts, i32 used) { return experts + 2 * used; }

/* z f32 [experts]; ids and weights of the token. `words` is the warp's shared memory. */
__device__ inline void route_token(const RouterArguments& r, i32* ids, float* weights, const float* z, u32* words) {
  const int lane = threadIdx.x % 32;
  const i32 experts = r.experts, used = r.used, mode = r.mode, normalize = r.normalize;
  const float scale = r.scale;
  const float *bias = r.bias, *expert_scale = r.expert_scale;
  u32* keys = words;
  float* chosen = (float*)(keys + experts);
  i32* own = (i32*)(chosen + used);
  float top = -INFINITY, sum = 1.0f;
  if (mode == 1) {
    for (i32 e = lane; e < experts; e += 32) top = z[e] > top ? z[e] : top;
    top = warp_max(top);
    sum = 0.0f;
    for (i32 e = lane; e < experts; e += 32) sum += expf(z[e] - top);
    sum = warp_sum(sum);
  }
  for (i32 e = lane; e < experts; e += 32) {
    float p = raw_weight(mode, z[e], top);
    if (mode == 1) p /= sum;
    keys[e] = sortable(bias ? p + bias[e] : p);
  }
  __syncwarp();
  for (i32 j = 0; j < used; j++) {
    u32 best = 0;
    u32 at = ~0u;
    for (i32 e = lane; e < experts; e += 32)
      if (keys[e] > best) {
        best = keys[e];
        at = (u32)e;
      }
    u32 greatest = warp_max_u32(best);
    at = warp_min_u32(best == greatest ? at : ~0u);
    if (lane == (int)(at % 32)) {
      float p = raw_weight(mode, z[at], top);
      keys[at] = 0;
      chosen[j] = mode == 1 ? p / sum : p;
      ids[j] = own[j] = (i32)at;
    }
  }
  __syncwarp();
  float divide = divisor(chosen, used, mode, normalize != 0, lane);
  for (i32 j = lane; j < used; j += 32) {
    float w = chosen[j];
    if (mode == 3 || normalize) w /= divide;
    if (scale != 1.0f) w *= scale;
    weights[j] = expert_scale ? w * expert_scale[own[j]] : w;
  }
}

}  // namespace psi
