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

/* The chosen experts' weights from `chosen`, in shared memory, in the order of choice. */
__device__ __forceinline__ void weigh_chosen(const RouterArguments& r, float* weights, float* chosen, const i32* own) {
  const int lane = threadIdx.x % 32;
  __syncwarp();
  const float divide = divisor(chosen, r.used, r.mode, r.normalize != 0, lane);
  for (i32 j = lane; j < r.used; j += 32) {
    float w = chosen[j];
    if (r.mode == 3 || r.normalize) w /= divide;
    if (r.scale != 1.0f) w *= r.scale;
    weights[j] = r.expert_scale ? w * r.expert_scale[own[j]] : w;
  }
}

/* Lane l has the logits z[i] and keys of experts l + 32 i, as far as there are any, in registers. */
template <int COUNT>
__device__ __forceinline__ void route_held(const RouterArguments& r, i32* ids, float* weights, const float* z, float* chosen, i32* own) {
  const int lane = threadIdx.x % 32;
  float p[COUNT], top = -INFINITY, sum = 0.0f;
  u32 keys[COUNT];
#pragma unroll
  for (int i = 0; i < COUNT; i++) p[i] = lane + 32 * i < r.experts ? z[lane + 32 * i] : -INFINITY;
  if (r.mode == 1) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) top = p[i] > top ? p[i] : top;
    top = warp_max(top);
  }
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
    p[i] = raw_weight(r.mode, p[i], top);
    if (lane + 32 * i < r.experts) sum += p[i];
  }
  if (r.mode == 1) sum = warp_sum(sum);
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
    if (r.mode == 1) p[i] /= sum;
    const i32 e = lane + 32 * i;
    keys[i] = e < r.experts ? sortable(r.bias ? p[i] + r.bias[e] : p[i]) : 0;
  }
#pragma unroll 1
  for (i32 j = 0; j < r.used; j++) {
    u32 best = 0, at = ~0u;
    float value = 0.0f;
#pragma unroll
    for (int i = 0; i < COUNT; i++)
      if (keys[i] > best) best = keys[i], at = (u32)(lane + 32 * i), value = p[i];
    const u32 greatest = warp_max_u32(best);
    const u32 first = warp_min_u32(best == greatest ? at : ~0u);
    if (at == first) { /* of one lane alone */
      chosen[j] = value;
      ids[j] = own[j] = (i32)first;
#pragma unroll
      for (int i = 0; i < COUNT; i++)
        if (lane + 32 * i == (i32)first) keys[i] = 0;
    }
  }
  weigh_chosen(r, weights, chosen, own);
}

/* z f32 [experts]; ids and weights of the token. `words` is the warp's shared memory. */
__device__ inline void route_token(const RouterArguments& r, i32* ids, float* weights, const float* z, u32* words) {
  const int lane = threadIdx.x % 32;
  const i32 experts = r.experts, used = r.used, mode = r.mode;
  const float* bias = r.bias;
  u32* keys = words;
  float* chosen = (float*)(keys + experts);
  i32* own = (i32*)(chosen + used);
  if (experts <= 32) return route_held<1>(r, ids, weights, z, chosen, own);
  if (experts <= 128) return route_held<4>(r, ids, weights, z, chosen, own);
  if (experts <= 256) return route_held<8>(r, ids, weights, z, chosen, own);
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
  weigh_chosen(r, weights, chosen, own);
}

/* Words up to the next 16 bytes. */
__host__ __device__ constexpr i32 in_fours(i32 words) { return (words + 3) / 4 * 4; }

/* Experts and chosen ones that route_by_block takes, and its words of shared memory. */
template <int THREADS>
__host__ __device__ constexpr bool routes_by_block(i32 experts, i32 used) { return experts <= THREADS && used <= 32; }
template <int THREADS>
__host__ __device__ constexpr i32 router_block_words(i32 used) { return THREADS + (THREADS / 32 * 2 + 2) * used; }

/*
 * The same by all THREADS of a block, where one warp's many rounds would take longer than all before them: a warp ranks 32 experts,
 * its first ones are ranked among those of all. z is in shared memory; `words` is aligned to 16 bytes.
 */
template <int THREADS>
__device__ __forceinline__ void route_by_block(const RouterArguments& r, i32* ids, float* weights, const float* z, u32* words) {
  const i32 e = threadIdx.x, lane = e % 32, warp = e / 32, used = r.used, all = THREADS / 32 * used;
  u32* keys = words;                      /* [warp][used] the first ones of each, in order */
  i32* experts = (i32*)(keys + all);      /* whose they are */
  float* p = (float*)(experts + all);     /* [THREADS] */
  float* chosen = p + THREADS;
  i32* own = (i32*)(chosen + used);
  const bool is = e < r.experts;
  float top = -INFINITY;
  if (r.mode == 1) {
    for (i32 i = lane; i < r.experts; i += 32) top = z[i] > top ? z[i] : top;
    top = warp_max(top);
  }
  float value = is ? raw_weight(r.mode, z[e], top) : 0.0f;
  if (r.mode == 1) {
    p[e] = value;
    __syncthreads();
    float sum = 0.0f;
    for (i32 i = lane; i < r.experts; i += 32) sum += p[i];
    value /= warp_sum(sum);
    __syncthreads(); /* all have read what now changes */
  }
  p[e] = value;
  const u32 key = is ? sortable(r.bias ? value + r.bias[e] : value) : 0;
  i32 rank = 0;
#pragma unroll 8
  for (int i = 0; i < 32; i++) rank += __shfl_sync(~0u, key, i) >= key + (i >= lane);
  if (rank < used) keys[warp * used + rank] = key, experts[warp * used + rank] = e;
  __syncthreads();
  if (e < all) { /* of equal keys the lower expert's comes first in `keys` too */
    const u32 mine = keys[e];
    i32 place = 0;
#pragma unroll 4
    for (i32 i = 0; i < all; i += 4) {
      const uint4 four = *(const uint4*)(keys + i);
      place += (four.x >= mine + (i >= e)) + (four.y >= mine + (i + 1 >= e)) + (four.z >= mine + (i + 2 >= e)) + (four.w >= mine + (i + 3 >= e));
    }
    if (place < used) chosen[place] = p[experts[e]], ids[place] = own[place] = experts[e];
  }
  __syncthreads();
  if (warp == 0) weigh_chosen(r, weights, chosen, own);
}

}  // namespace psi
