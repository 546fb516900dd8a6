/*
 * sum = base + (sum over j of weights[t,j] * x[t*used+j]); y = RMS norm of sum times w: the bits of psi_moe_combine_add, then
 * psi_rms_norm. x f32 [tokens*used, width], weights f32 [tokens, used], sum, y and base f32 [tokens, width]; sum may be base.
 */
#include "moe_combine.cuh"

PSI_API i32 psi_moe_combine_norm(void* sum, void* y, const void* base, const void* x, const void* weights, const void* w, i32 tokens, i32 used, i32 width, f32 eps) {
  using namespace psi;
  const char* op = "psi_moe_combine_norm";
  if (!sum || !y || !base || !x || !weights || !w || tokens < 0 || used < 1 || width < 1)
    return fail(PSI_INVALID, "[%s] expected non-null pointers and positive sizes, got %d, %d, %d.", op, tokens, used, width);
  const uintptr_t all = (uintptr_t)sum | (uintptr_t)y | (uintptr_t)base | (uintptr_t)x | (uintptr_t)w;
  if (combines_width(width) && all % 16 == 0)
    return launch_combine_norm<false>(op, {(float*)sum, (float*)y, (const float*)base, (const float*)x, (const float*)weights, nullptr, nullptr, nullptr, (const float*)w, used, width, eps}, tokens);
  NormArguments p = {(float*)sum, (float*)y, (const float*)base, nullptr, (const float*)w, width, 0, 1, width, eps};
  p.parts = (const float*)x, p.part_weights = (const float*)weights, p.used = used;
  return launch_norm(op, p, tokens);
}
