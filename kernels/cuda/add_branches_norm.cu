/*
 * sum = (x + N(N(dense; dense_w) + N(e; experts_w); w)) * scale; y = N(sum; next), where there is a next; e[t] the sum over j of
 * weights[t,j] * experts[t*used+j], in order; N(a; b) the RMS norm of a times b. Rows f32 [tokens, width], experts f32
 * [tokens*used, width]; sum may be x. The bits of the ops one after the other (norm_join.cuh).
 */
#include "norm_join.cuh"

PSI_API i32 psi_add_branches_norm(void* sum, void* y, const void* x, const void* dense, const void* experts, const void* weights, const void* dense_w, const void* experts_w, const void* w, const void* next, i32 tokens, i32 used, i32 width, f32 eps, f32 scale) {
  using namespace psi;
  const char* op = "psi_add_branches_norm";
  if (!sum || !x || !dense || !experts || !weights || !dense_w || !experts_w || !w || !y != !next)
    return fail(PSI_INVALID, "[%s] expected non-null pointers, and y where there is a next.", op);
  if (used < 1) return fail(PSI_INVALID, "[%s] expected used from 1, got %d.", op, used);
  JoinedNorms p = {(float*)sum, (float*)y, (const float*)x, (const float*)dense, (const float*)w, (const float*)next, width, eps, scale};
  p.experts = (const float*)experts, p.weights = (const float*)weights, p.used = used;
  p.dense_w = (const float*)dense_w, p.experts_w = (const float*)experts_w;
  return launch_joined_norms<true>(op, p, tokens);
}
