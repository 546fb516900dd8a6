/*
 * y[s,n] = act(gate, up) with gate = x[token] . w[e(s)][n] (+ bias[e(s),n]) and up, the same for row features + n of the
 * matrix, for slots s = token*used + j. x f32 [tokens, columns], y f32 [tokens*used, features], w `experts` packed
 * matrices [2*features, columns], features a multiple of 16, expert_ids i32 [tokens,used]; act as in psi_glu (glu.cuh).
 * The bits of psi_moe_matmul, then psi_glu: the sums are moe.cuh's, the activation is glu.cuh's.
 */
#include "moe_launch.cuh"
#include "moe_float.cuh"

PSI_API i32 psi_moe_glu(void* y, const void* x, const void* w, const void* bias, const void* expert_ids, void* scratch, i32 tokens, i32 used, i32 experts, i32 features, i32 columns, i32 dtype, i32 kind, f32 alpha, f32 limit, f64 scratch_bytes) {
  using namespace psi;
  const char* op = "psi_moe_glu";
  if (features < 16 || features % 16 != 0 || features > INT32_MAX / 2)
    return fail(PSI_UNSUPPORTED, "[%s] expected features in multiples of 16, got %d.", op, features);
  if (kind < 0 || kind > 2) return fail(PSI_INVALID, "[%s] expected kind 0, 1 or 2, got %d.", op, kind);
  MoeArguments p = {(float*)y, (const float*)x, nullptr, (const u8*)w, (const float*)bias, (const i32*)expert_ids, 0, used, experts, 2 * features, columns, {kind, alpha, limit}, 0, 0};
  PSI_TRY(check_moe(op, p, scratch, scratch_bytes, tokens, used, dtype));
  p.slots = tokens * used;
  if (p.slots == 0) return PSI_OK;
  if ((dtype & ~PSI_PACKED) == F32) return moe_float_product<true>(op, p);
  return with_weight_type(op, dtype & ~PSI_PACKED, [&](auto type) { return moe_product<decltype(type), true>(op, p, tokens, scratch); });
}
