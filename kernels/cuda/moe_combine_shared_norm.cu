/*
 * sum = base + (sum over j of weights[t,j] * x[t*used+j]) + sigmoid(b . gate_w) * shared; y = RMS norm of sum times w: the bits of
 * psi_moe_combine_add, psi_matmul over F32 weights, psi_add_gated and psi_rms_norm (moe_combine.cuh).
 */
#include "moe_combine.cuh"

PSI_API i32 psi_moe_combine_shared_norm(void* sum, void* y, const void* base, const void* x, const void* weights, const void* shared, const void* b, const void* gate_w, const void* w, i32 tokens, i32 used, i32 width, f32 eps) {
  using namespace psi;
  const char* op = "psi_moe_combine_shared_norm";
  if (!sum || !y || !base || !x || !weights || !shared || !b || !gate_w || !w || tokens < 0 || used < 1)
    return fail(PSI_INVALID, "[%s] expected non-null pointers and positive sizes, got %d, %d, %d.", op, tokens, used, width);
  if (!combines_width(width))
    return fail(PSI_UNSUPPORTED, "[%s] expected a width of %d to %d in fours, got %d.", op, NORM_NARROW + 4, COMBINE_WIDEST, width);
  const uintptr_t all = (uintptr_t)sum | (uintptr_t)y | (uintptr_t)base | (uintptr_t)x | (uintptr_t)shared | (uintptr_t)b | (uintptr_t)gate_w | (uintptr_t)w;
  if (all % 16 != 0) return fail(PSI_INVALID, "[%s] expected rows aligned to 16 bytes.", op);
  const CombineArguments p = {(float*)sum, (float*)y, (const float*)base, (const float*)x, (const float*)weights, (const float*)shared, (const float*)b, (const float*)gate_w, (const float*)w, used, width, eps};
  return launch_combine_norm<true>(op, p, tokens);
}
