/*
 * Choice of experts: logits f32 [tokens, experts] -> ids i32, weights f32 [tokens, used], descending, the lower index
 * on ties. Mode 1: softmax over all, then the top; 2: sigmoid; 3: the top, then softmax over them. `bias` f32 [experts]
 * or NULL is added for choosing only, NaN chosen last. normalize: divide by the sum, at least 2^-14. `expert_scale` f32
 * [experts] or NULL multiplies the weights at the end. Sums in f32.
 *
 * A warp per token. Keys stand in shared memory as integers that sort like the floats (0: taken); each round takes the
 * greatest, expert e being looked after by lane e % 32.
 */
#include "router.cuh"

namespace psi {

__global__ void __launch_bounds__(128) router_kernel(i32* ids, float* weights, const float* logits, i32 tokens, const __grid_constant__ RouterArguments r) {
  let_next_start();
  PSI_DYNAMIC_SHARED(shared);
  const int warp = threadIdx.x / 32;
  const i64 token = (i64)blockIdx.x * (blockDim.x / 32) + warp;
  wait_for_inputs();
  if (token >= tokens) return;
  route_token(r, ids + token * r.used, weights + token * r.used, logits + token * r.experts, (u32*)shared + (i64)warp * router_words(r.experts, r.used));
}

}  // namespace psi

PSI_API i32 psi_router(void* ids, void* weights, const void* logits, const void* bias, const void* expert_scale, i32 tokens, i32 experts, i32 used, i32 mode, i32 normalize, f32 scale) {
  using namespace psi;
  if (!ids || !weights || !logits) return fail(PSI_INVALID, "[psi_router] expected non-null pointers.");
  if (tokens < 0 || experts < 1 || experts > MAX_EXPERTS || used < 1 || used > experts)
    return fail(PSI_INVALID, "[psi_router] expected 1 to %d experts and used within them, got %d and %d.", MAX_EXPERTS, experts, used);
  if (mode < 1 || mode > 3) return fail(PSI_INVALID, "[psi_router] expected mode 1, 2 or 3, got %d.", mode);
  const int warps = experts <= 1024 ? 4 : 1;
  const size_t shared = (size_t)warps * router_words(experts, used) * 4;
  const RouterArguments r = {experts, used, mode, normalize, scale, (const float*)bias, (const float*)expert_scale};
  return launch("psi_router", router_kernel, dim3((unsigned)PSI_DIVIDE_UP(tokens, warps)), dim3(32 * warps), shared, (i32*)ids, (float*)weights,
                (const float*)logits, tokens, r);
}
