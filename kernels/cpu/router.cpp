/*
 * Choice of experts: logits f32 [tokens, experts] -> ids i32, weights f32 [tokens, used], descending, the lower index
 * on ties. Mode 1: softmax over all, then the top; 2: sigmoid; 3: the top, then softmax over them. `bias` f32 [experts]
 * or NULL is added for choosing only, NaN chosen last. normalize: divide by the sum, at least 2^-14. `expert_scale` f32
 * [experts] or NULL multiplies the weights at the end. Plain loops, one task per token.
 */
#include <math.h>

#include "../common/pool.h"
#include "../common/simd.h"

PSI_KERNEL(router, i32* ids, float* weights, const float* logits, const float* bias, const float* expert_scale, i64 tokens, i64 experts, i64 used, i32 mode, bool normalize, float scale)

constexpr i32 MAX_EXPERTS = 4096;

namespace psi::PSI_ISA {

static void route(i32* ids, float* weights, const float* z, const float* bias, const float* expert_scale, i64 experts, i64 used, i32 mode, bool normalize, float scale) {
  float p[MAX_EXPERTS], key[MAX_EXPERTS];
  float top = -INFINITY;
  for (i64 e = 0; e < experts; e++) top = z[e] > top ? z[e] : top;
  float sum = 0;
  for (i64 e = 0; e < experts; e++) {
    p[e] = mode == 1 ? expf(z[e] - top) : mode == 2 ? 1.0f / (1.0f + expf(-z[e])) : z[e];
    sum += p[e];
  }
  for (i64 e = 0; e < experts; e++) {
    if (mode == 1) p[e] /= sum;
    key[e] = bias ? p[e] + bias[e] : p[e];
    if (key[e] != key[e]) key[e] = -INFINITY;
  }
  bool taken[MAX_EXPERTS] = {false};
  for (i64 j = 0; j < used; j++) {
    i64 best = -1;
    for (i64 e = 0; e < experts; e++)
      if (!taken[e] && (best < 0 || key[e] > key[best])) best = e;
    ids[j] = (i32)best;
    weights[j] = p[best];
    taken[best] = true;
  }
  if (mode == 3) {
    float total = 0, first = weights[0];
    for (i64 j = 0; j < used; j++) total += weights[j] = expf(weights[j] - first);
    for (i64 j = 0; j < used; j++) weights[j] /= total;
  } else if (normalize) {
    float total = 0;
    for (i64 j = 0; j < used; j++) total += weights[j];
    total = total > 6.103515625e-5f ? total : 6.103515625e-5f;
    for (i64 j = 0; j < used; j++) weights[j] /= total;
  }
  if (scale != 1.0f)
    for (i64 j = 0; j < used; j++) weights[j] *= scale;
  if (expert_scale)
    for (i64 j = 0; j < used; j++) weights[j] *= expert_scale[ids[j]];
}

void router(i32* ids, float* weights, const float* logits, const float* bias, const float* expert_scale, i64 tokens, i64 experts, i64 used, i32 mode, bool normalize, float scale) {
  parallel(tokens, [&](i64 t, int) {
    route(ids + t * used, weights + t * used, logits + t * experts, bias, expert_scale, experts, used, mode, normalize, scale);
  });
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
static i32 check_router(const void* ids, const void* weights, const void* logits, i32 tokens, i32 experts, i32 used, i32 mode) {
  if (!ids || !weights || !logits) return psi::fail(PSI_INVALID, "[psi_router] expected non-null pointers.");
  if (tokens < 0 || experts < 1 || experts > MAX_EXPERTS || used < 1 || used > experts)
    return psi::fail(PSI_INVALID, "[psi_router] expected 1 to %d experts and used within them, got %d and %d.", MAX_EXPERTS, experts, used);
  if (mode < 1 || mode > 3) return psi::fail(PSI_INVALID, "[psi_router] expected mode 1, 2 or 3, got %d.", mode);
  return PSI_OK;
}

PSI_API i32 psi_router(void* ids, void* weights, const void* logits, const void* bias, const void* expert_scale, i32 tokens, i32 experts, i32 used, i32 mode, i32 normalize, f32 scale) {
  PSI_OPENED("psi_router");
  i32 status = check_router(ids, weights, logits, tokens, experts, used, mode);
  if (status != PSI_OK) return status;
  PSI_RUN(router)((i32*)ids, (float*)weights, (const float*)logits, (const float*)bias, (const float*)expert_scale, tokens, experts, used, mode, normalize != 0, scale);
  return PSI_OK;
}

/* Ranks by counting who is better, in f64. */
PSI_API i32 psi_router_ref(void* ids, void* weights, const void* logits, const void* bias, const void* expert_scale, i32 tokens, i32 experts, i32 used, i32 mode, i32 normalize, f32 scale) {
  i32 status = check_router(ids, weights, logits, tokens, experts, used, mode);
  if (status != PSI_OK) return status;
  for (i64 t = 0; t < tokens; t++) {
    const float* z = (const float*)logits + t * experts;
    double p[MAX_EXPERTS], sum = 0, chosen = 0;
    for (i64 e = 0; e < experts; e++) sum += exp((double)z[e]);
    for (i64 e = 0; e < experts; e++) p[e] = mode == 1 ? exp((double)z[e]) / sum : mode == 2 ? 1 / (1 + exp(-(double)z[e])) : z[e];
    auto key = [&](i64 e) { return p[e] + (bias ? ((const float*)bias)[e] : 0); };
    double w[MAX_EXPERTS];
    for (i64 e = 0; e < experts; e++) {
      i64 rank = 0;
      for (i64 o = 0; o < experts; o++) rank += key(o) > key(e) || (key(o) == key(e) && o < e);
      if (rank >= used) continue;
      ((i32*)ids)[t * used + rank] = (i32)e;
      w[rank] = mode == 3 ? exp(p[e]) : p[e];
      chosen += w[rank];
    }
    double divide = mode == 3 ? chosen : normalize ? fmax(chosen, 6.103515625e-5) : 1;
    for (i64 j = 0; j < used; j++) {
      double own = expert_scale ? ((const float*)expert_scale)[((i32*)ids)[t * used + j]] : 1;
      ((float*)weights)[t * used + j] = (float)(w[j] / divide * scale * own);
    }
  }
  return PSI_OK;
}
#endif
