/*
 * y[s,n] = x[row(s)] . w[e(s)][n] (+ bias[e(s),n]) for slots s = token*used + j; row(s) = s if x_per_slot, else token.
 * x f32 [tokens or tokens*used, columns], y f32 [tokens*used, outputs], w `experts` packed matrices one after the other,
 * expert_ids i32 [tokens,used]; x in bf16 as round.cuh says, sums in f32 (moe.cuh; F32 weights: moe_float.cuh).
 */
#include "moe_launch.cuh"
#include "moe_float.cuh"

PSI_API i32 psi_moe_matmul(void* y, const void* x, const void* w, const void* bias, const void* expert_ids, void* scratch, i32 tokens, i32 used, i32 experts, i32 outputs, i32 columns, i32 dtype, i32 x_per_slot, f64 scratch_bytes) {
  using namespace psi;
  const char* op = "psi_moe_matmul";
  if (x_per_slot != 0 && x_per_slot != 1) return fail(PSI_INVALID, "[%s] expected x_per_slot 0 or 1, got %d.", op, x_per_slot);
  MoeArguments p = {(float*)y, (const float*)x, nullptr, (const u8*)w, (const float*)bias, (const i32*)expert_ids, 0, x_per_slot ? 1 : used, experts, outputs, columns, {-1, 0, 0}, 0, 0};
  PSI_TRY(check_moe(op, p, scratch, scratch_bytes, tokens, used, dtype));
  p.slots = tokens * used;
  if (p.slots == 0) return PSI_OK;
  if ((dtype & ~PSI_PACKED) == F32) return moe_float_product<false>(op, p);
  return with_weight_type(op, dtype & ~PSI_PACKED, [&](auto type) { return moe_product<decltype(type), false>(op, p, tokens, scratch); });
}
