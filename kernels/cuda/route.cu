/*
 * Routing of tokens to experts for training, with gradients; a warp makes a token, its lanes the experts lane, lane + 32, ...
 *   route: the `used` largest logits, the lower index on ties; weights: mode 1 softmax over all, 3 softmax over the chosen
 *   expert_order: slots sorted by expert (stable), where each went, where each expert begins; a block makes an expert
 *   balance_loss: experts * sum_e f_e P_e, f the share of slots and P the mean probability (Switch Transformer, arXiv:2101.03961)
 * Logits, weights and losses are f32.
 */
#include "train.cuh"

namespace psi {

constexpr i32 MOST_EXPERTS = 1024;
constexpr int ROUTE_THREADS = 256, ROUTE_WARPS = ROUTE_THREADS / 32;

/* Largest logit of a token and the sum of exp(z - most). */
__device__ __forceinline__ void softmax_facts(const float* z, i32 experts, int lane, float& most, float& sum) {
  most = -INFINITY;
  for (i32 e = lane; e < experts; e += 32) most = fmaxf(most, z[e]);
  most = warp_max(most);
  sum = 0;
  for (i32 e = lane; e < experts; e += 32) sum += expf(z[e] - most);
  sum = warp_sum(sum);
}

__global__ void route_kernel(i32* ids, float* weights, const float* logits, i32 tokens, i32 experts, i32 used, i32 mode) {
  let_next_start();
  wait_for_inputs();
  const i32 t = blockIdx.x * ROUTE_WARPS + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (t >= tokens) return;
  const float* z = logits + (i64)t * experts;
  float most = 0, sum = 1, total = 0;
  if (mode == 1) softmax_facts(z, experts, lane, most, sum);
  u32 taken = 0; /* bit i: expert lane + 32 i */
  for (i32 j = 0; j < used; j++) {
    float best = -INFINITY;
    i32 id = experts;
    for (i32 e = lane, i = 0; e < experts; e += 32, i++)
      if (!(taken >> i & 1) && (id == experts || z[e] > best)) best = z[e], id = e;
    for (int mask = 16; mask > 0; mask >>= 1) {
      const float other = __shfl_xor_sync(~0u, best, mask);
      const i32 other_id = __shfl_xor_sync(~0u, id, mask);
      if (other_id < experts && (id == experts || other > best || (other == best && other_id < id))) best = other, id = other_id;
    }
    if (id % 32 == lane) taken |= 1u << id / 32;
    if (mode == 3 && j == 0) most = best;
    const float e = expf(best - most);
    total += e;
    if (lane == 0) ids[(i64)t * used + j] = id, weights[(i64)t * used + j] = mode == 1 ? e / sum : e;
  }
  __syncwarp();
  if (mode == 3 && lane == 0)
    for (i32 j = 0; j < used; j++) weights[(i64)t * used + j] /= total;
}

__global__ void route_grad_kernel(float* dlogits, const float* dweights, const float* weights, const i32* ids, const float* logits, i32 tokens, i32 experts, i32 used, i32 mode) {
  let_next_start();
  wait_for_inputs();
  const i32 t = blockIdx.x * ROUTE_WARPS + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (t >= tokens) return;
  const float *z = logits + (i64)t * experts, *w = weights + (i64)t * used, *dw = dweights + (i64)t * used;
  const i32* id = ids + (i64)t * used;
  float mean = 0, most = 0, sum = 1;
  for (i32 j = 0; j < used; j++) mean += w[j] * dw[j];
  if (mode == 1) softmax_facts(z, experts, lane, most, sum);
  for (i32 e = lane; e < experts; e += 32) {
    float d = mode == 1 ? -(expf(z[e] - most) / sum) * mean : 0.0f;
    for (i32 j = 0; j < used; j++)
      if (id[j] == e) d += w[j] * (mode == 1 ? dw[j] : dw[j] - mean);
    dlogits[(i64)t * experts + e] = d;
  }
}

/* Ids outside the experts get no place. */
__global__ void __launch_bounds__(ROUTE_THREADS) expert_order_kernel(i32* slots, i32* places, i32* starts, const i32* ids, i32 count, i32 experts) {
  __shared__ i32 below[32], equal[32];
  let_next_start();
  wait_for_inputs();
  const i32 expert = blockIdx.x;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  i32 lower = 0, same = 0;
  for (i32 s = threadIdx.x; s < count; s += ROUTE_THREADS) lower += ids[s] >= 0 && ids[s] < expert, same += ids[s] == expert;
  i32 next = block_total(lower, below);
  same = block_total(same, equal);
  if (threadIdx.x == 0) {
    starts[expert] = next;
    if (expert == experts - 1) starts[experts] = next + same;
  }
  for (i32 s0 = 0; s0 < count; s0 += ROUTE_THREADS) {
    const i32 s = s0 + threadIdx.x;
    const bool mine = s < count && ids[s] == expert;
    const u32 of_warp = __ballot_sync(~0u, mine);
    __syncthreads();
    if (lane == 0) equal[warp] = __popc(of_warp);
    __syncthreads();
    i32 at = next + __popc(of_warp & ((1u << lane) - 1));
    for (int w = 0; w < ROUTE_WARPS; w++) {
      if (w < warp) at += equal[w];
      next += equal[w];
    }
    if (mine) slots[at] = s, places[s] = at;
  }
}

static __device__ i32 expert_counts[MOST_EXPERTS];
constexpr int BALANCE_BLOCKS = 1024;
static __device__ double balance_parts[BALANCE_BLOCKS];

__global__ void count_experts_kernel(const i32* ids, i32 count, i32 experts) {
  __shared__ i32 counts[MOST_EXPERTS];
  let_next_start();
  wait_for_inputs();
  for (i32 e = threadIdx.x; e < experts; e += blockDim.x) counts[e] = 0;
  __syncthreads();
  for (i32 s = threadIdx.x; s < count; s += blockDim.x)
    if ((u32)ids[s] < (u32)experts) atomicAdd(&counts[ids[s]], 1);
  __syncthreads();
  for (i32 e = threadIdx.x; e < experts; e += blockDim.x) expert_counts[e] = counts[e];
}

/* sum over experts of share times probability, for a token */
__device__ __forceinline__ float mean_share(const float* z, i32 experts, float slots, int lane, float& most, float& sum) {
  softmax_facts(z, experts, lane, most, sum);
  float mean = 0;
  for (i32 e = lane; e < experts; e += 32) mean += (float)expert_counts[e] / slots * (expf(z[e] - most) / sum);
  return warp_sum(mean);
}

__global__ void __launch_bounds__(ROUTE_THREADS) balance_parts_kernel(const float* logits, i32 tokens, i32 experts, float slots) {
  __shared__ double shared[32];
  let_next_start();
  wait_for_inputs();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  double sum = 0;
  for (i32 t = blockIdx.x * ROUTE_WARPS + warp; t < tokens; t += gridDim.x * ROUTE_WARPS) {
    float most, all;
    sum += mean_share(logits + (i64)t * experts, experts, slots, lane, most, all);
  }
  sum = block_total(lane == 0 ? sum : 0.0, shared);
  if (threadIdx.x == 0) balance_parts[blockIdx.x] = sum;
}

__global__ void balance_total_kernel(float* loss, i32 parts, double scale) {
  __shared__ double shared[32];
  let_next_start();
  wait_for_inputs();
  double sum = 0;
  for (i32 i = threadIdx.x; i < parts; i += blockDim.x) sum += balance_parts[i];
  sum = block_total(sum, shared);
  if (threadIdx.x == 0) loss[0] = (float)(sum * scale);
}

__global__ void balance_grad_kernel(float* dlogits, const float* dloss, const float* logits, i32 tokens, i32 experts, float slots) {
  let_next_start();
  wait_for_inputs();
  const i32 t = blockIdx.x * ROUTE_WARPS + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (t >= tokens) return;
  const float* z = logits + (i64)t * experts;
  float most, sum;
  const float mean = mean_share(z, experts, slots, lane, most, sum), scale = dloss[0] * (float)experts / (float)tokens;
  for (i32 e = lane; e < experts; e += 32)
    dlogits[(i64)t * experts + e] = scale * (expf(z[e] - most) / sum) * ((float)expert_counts[e] / slots - mean);
}

static i32 check_route(const char* where, bool pointers, i32 tokens, i32 experts, i32 used, i32 mode, i32 dtype) {
  if (dtype != F32) return fail(PSI_UNSUPPORTED, "[%s] expected f32 on CUDA, got dtype %d.", where, dtype);
  if (!pointers || tokens < 0 || experts < 1 || experts > MOST_EXPERTS || used < 1 || used > experts || (mode != 1 && mode != 3))
    return fail(PSI_INVALID, "[%s] expected pointers, 1..%d experts, of which 1 or more are used, and mode 1 or 3, got tokens %d, experts %d, used %d, mode %d.", where, MOST_EXPERTS, tokens, experts, used, mode);
  return PSI_OK;
}
static dim3 token_grid(i32 tokens) { return dim3(PSI_DIVIDE_UP(tokens, ROUTE_WARPS)); }

}  // namespace psi

PSI_API i32 psi_route(void* ids, void* weights, const void* logits, i32 tokens, i32 experts, i32 used, i32 mode, i32 dtype) {
  using namespace psi;
  PSI_TRY(check_route("psi_route", ids && weights && logits, tokens, experts, used, mode, dtype));
  return launch("psi_route", route_kernel, token_grid(tokens), dim3(ROUTE_THREADS), 0, (i32*)ids, (float*)weights, (const float*)logits, tokens, experts, used, mode);
}
PSI_API i32 psi_route_grad(void* dlogits, const void* dweights, const void* weights, const void* ids, const void* logits, i32 tokens, i32 experts, i32 used, i32 mode, i32 dtype) {
  using namespace psi;
  PSI_TRY(check_route("psi_route_grad", dlogits && dweights && weights && ids && logits, tokens, experts, used, mode, dtype));
  return launch("psi_route_grad", route_grad_kernel, token_grid(tokens), dim3(ROUTE_THREADS), 0, (float*)dlogits, (const float*)dweights, (const float*)weights, (const i32*)ids, (const float*)logits, tokens, experts, used, mode);
}
PSI_API i32 psi_expert_order(void* slots, void* places, void* starts, const void* ids, i32 tokens, i32 used, i32 experts) {
  using namespace psi;
  PSI_TRY(check_route("psi_expert_order", slots && places && starts && ids, tokens, experts, used, 1, F32));
  return launch("psi_expert_order", expert_order_kernel, dim3(experts), dim3(ROUTE_THREADS), 0, (i32*)slots, (i32*)places, (i32*)starts, (const i32*)ids, tokens * used, experts);
}
PSI_API i32 psi_balance_loss(void* loss, const void* logits, const void* ids, i32 tokens, i32 experts, i32 used, i32 dtype) {
  using namespace psi;
  PSI_TRY(check_route("psi_balance_loss", loss && logits && ids, tokens, experts, used, 1, dtype));
  const i32 blocks = max(1, min(BALANCE_BLOCKS, PSI_DIVIDE_UP(tokens, ROUTE_WARPS)));
  PSI_TRY(launch("psi_balance_loss", count_experts_kernel, dim3(1), dim3(1024), 0, (const i32*)ids, tokens * used, experts));
  PSI_TRY(launch("psi_balance_loss", balance_parts_kernel, dim3(blocks), dim3(ROUTE_THREADS), 0, (const float*)logits, tokens, experts, (float)tokens * (float)used));
  return launch("psi_balance_loss", balance_total_kernel, dim3(1), dim3(ROUTE_THREADS), 0, (float*)loss, blocks, (double)experts / (tokens > 0 ? tokens : 1));
}
PSI_API i32 psi_balance_loss_grad(void* dlogits, const void* dloss, const void* logits, const void* ids, i32 tokens, i32 experts, i32 used, i32 dtype) {
  using namespace psi;
  PSI_TRY(check_route("psi_balance_loss_grad", dlogits && dloss && logits && ids, tokens, experts, used, 1, dtype));
  PSI_TRY(launch("psi_balance_loss_grad", count_experts_kernel, dim3(1), dim3(1024), 0, (const i32*)ids, tokens * used, experts));
  return launch("psi_balance_loss_grad", balance_grad_kernel, token_grid(tokens), dim3(ROUTE_THREADS), 0, (float*)dlogits, (const float*)dloss, (const float*)logits, tokens, experts, (float)tokens * (float)used);
}
