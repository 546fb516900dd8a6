/*
 * Choice of experts: logits f32 [tokens, experts] -> ids i32, weights f32 [tokens, used], descending, the lower index
 * on ties. Mode 1: softmax over all, then the top; 2: sigmoid; 3: the top, then softmax over them. `bias` f32 [experts]
 * or NULL is added for choosing only, NaN chosen last. normalize: divide by the sum, at least 2^-14. `expert_scale` f32
 * [experts] or NULL multiplies the weights at the end. Sums in f32.
 *
 * A warp per token. Keys stand in shared memory as integers that sort like the floats (0: taken); each round takes the
 * greatest, expert e being looked after by lane e % 32.
 */
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

__global__ void __launch_bounds__(128) router_kernel(i32* ids, float* weights, const float* logits, const float* bias, const float* expert_scale, i32 tokens, i32 experts, i32 used, i32 mode, i32 normalize, float scale) {
  let_next_start();
  PSI_DYNAMIC_SHARED(shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const i64 token = (i64)blockIdx.x * (blockDim.x / 32) + warp;
  u32* keys = (u32*)shared + (i64)warp * (experts + 2 * used);
  float* chosen = (float*)(keys + experts);
  i32* own = (i32*)(chosen + used);
  wait_for_inputs();
  if (token >= tokens) return;
  const float* z = logits + token * experts;

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
      ids[token * used + j] = own[j] = (i32)at;
    }
  }
  __syncwarp();
  float divide = divisor(chosen, used, mode, normalize != 0, lane);
  for (i32 j = lane; j < used; j += 32) {
    float w = chosen[j];
    if (mode == 3 || normalize) w /= divide;
    if (scale != 1.0f) w *= scale;
    weights[token * used + j] = expert_scale ? w * expert_scale[own[j]] : w;
  }
}

}  // namespace psi

PSI_API i32 psi_router(void* ids, void* weights, const void* logits, const void* bias, const void* expert_scale, i32 tokens, i32 experts, i32 used, i32 mode, i32 normalize, f32 scale) {
  using namespace psi;
  if (!ids || !weights || !logits) return fail(PSI_INVALID, "[psi_router] expected non-null pointers.");
  if (tokens < 0 || experts < 1 || experts > MAX_EXPERTS || used < 1 || used > experts)
    return fail(PSI_INVALID, "[psi_router] expected 1 to %d experts and used within them, got %d and %d.", MAX_EXPERTS, experts, used);
  if (mode < 1 || mode > 3) return fail(PSI_INVALID, "[psi_router] expected mode 1, 2 or 3, got %d.", mode);
  const int warps = experts <= 1024 ? 4 : 1;
  const size_t shared = (size_t)warps * (experts + 2 * used) * 4;
  return launch("psi_router", router_kernel, dim3((unsigned)PSI_DIVIDE_UP(tokens, warps)), dim3(32 * warps), shared, (i32*)ids, (float*)weights,
                (const float*)logits, (const float*)bias, (const float*)expert_scale, tokens, experts, used, mode, normalize, scale);
}
