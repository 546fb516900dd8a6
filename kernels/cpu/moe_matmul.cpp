/*
 * y[s,n] = x[row(s)] . w[e(s)][n] (+ bias[e(s),n]) for slots s = token*used + j; row(s) = s if x_per_slot, else token.
 * x f32 [tokens or tokens*used, columns], y f32 [tokens*used, outputs], w `experts` packed matrices one after the other,
 * expert_ids i32 [tokens,used]. Slots are grouped by expert (counting sort), then each expert with slots is a matrix
 * product over its rows (product.h), so a slot's bits do not depend on who shares its expert. A task is a few
 * panels of one expert.
 * Scratch: inputs * columns * 2 + 64 + 4 * (slots + 3 * experts + 16) bytes, inputs = slots if x_per_slot else tokens
 * (float types do not need the first term, but the rule is the same for all; PSI_A16 doubles it).
 */
#include "../common/pool.h"
#include "../common/types.h"
#include "product.h"
#include "rows.h"

namespace psi {
struct MoeArguments {
  float* y;
  const float* x;
  const u8* w;
  const float* bias;
  const i32* expert_ids;
  u8* scratch;
  i64 tokens, used, experts, outputs, columns;
  i32 dtype;
  bool x_per_slot;
  i32 parts; /* of an activation */
};
}  // namespace psi

PSI_DOT_KERNEL(moe_matmul, const psi::MoeArguments& a)

namespace psi::PSI_ISA {

void moe_matmul(const MoeArguments& a) {
  const TypeInfo& type = *find_type(a.dtype);
  const i64 slots = a.tokens * a.used, inputs = a.x_per_slot ? slots : a.tokens;
  InputBlock* in = (InputBlock*)(((uintptr_t)a.scratch + 63) & ~(uintptr_t)63);
  if (type.block > 1) quantize_inputs(in, a.x, inputs, a.columns, a.dtype, a.parts);

  i32* order = (i32*)((u8*)in + (type.block > 1 ? inputs * a.columns * 2 * a.parts : 0));
  i32* first = order + slots;         /* [experts + 1] */
  i32* next = first + a.experts + 1; /* [experts] */
  i32* active = next + a.experts;    /* [experts] */
  memset(first, 0, (size_t)(a.experts + 1) * 4);
  for (i64 s = 0; s < slots; s++) first[a.expert_ids[s] + 1]++;
  i64 used_experts = 0;
  for (i64 e = 0; e < a.experts; e++) {
    if (first[e + 1] > 0) active[used_experts++] = (i32)e;
    first[e + 1] += first[e];
    next[e] = first[e];
  }
  for (i64 s = 0; s < slots; s++) order[next[a.expert_ids[s]]++] = (i32)s;

  const i64 panels = panel_count(a.outputs), matrix = panels * panel_bytes(type, a.columns);
  i64 group = type.block > 1 && slots * a.parts > 4 * used_experts ? 16 : 4;
  while (group > 1 && used_experts * panels / group < 4 * pool_threads()) group /= 2;
  const i64 groups = (panels + group - 1) / group;
  parallel(used_experts * groups, [&](i64 i, int thread) {
    const i64 e = active[i / groups], g = i % groups;
    ProductTask t;
    t.y = a.y;
    t.x = a.x;
    t.in = in;
    t.panels = a.w + e * matrix;
    t.bias = a.bias ? a.bias + e * a.outputs : nullptr;
    t.slots = order + first[e];
    t.scratch = thread_scratch(thread);
    t.first_row = 0;
    t.rows = first[e + 1] - first[e];
    t.outputs = a.outputs;
    t.input_rows = inputs;
    t.columns = a.columns;
    t.first_panel = g * group;
    t.panel_count = panels - t.first_panel < group ? panels - t.first_panel : group;
    t.dtype = a.dtype;
    t.slots_per_input = a.x_per_slot ? 1 : (i32)a.used;
    t.parts = a.parts;
    product(t);
  });
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
#include "reference.h"

static i32 check_moe(const char* where, const void* y, const void* x, const void* w, const void* expert_ids, i32 tokens, i32 used, i32 experts, i32 outputs, i32 columns, i32 dtype, i32 x_per_slot) {
  if (!y || !x || !w || !expert_ids) return psi::fail(PSI_INVALID, "[%s] expected non-null pointers.", where);
  if (tokens < 0 || used < 1 || experts < 1 || outputs < 1 || columns < 1 || (x_per_slot != 0 && x_per_slot != 1))
    return psi::fail(PSI_INVALID, "[%s] expected tokens >= 0, used, experts, outputs, columns >= 1 and x_per_slot 0 or 1, got %d, %d, %d, %d, %d, %d.", where,
                     tokens, used, experts, outputs, columns, x_per_slot);
  const psi::TypeInfo* type;
  i32 status = psi::check_weight_type(where, dtype & ~(PSI_PACKED | PSI_A16), columns, &type);
  if (status != PSI_OK) return status;
  if ((i64)tokens * used > INT32_MAX) return psi::fail(PSI_INVALID, "[%s] expected tokens * used below 2^31, got %d * %d.", where, tokens, used);
  for (i64 s = 0; s < (i64)tokens * used; s++) {
    i32 e = ((const i32*)expert_ids)[s];
    if (e < 0 || e >= experts) return psi::fail(PSI_INVALID, "[%s] expected expert ids from 0 to %d, got %d at slot %lld.", where, experts - 1, e, (long long)s);
  }
  return PSI_OK;
}

static void moe_reference(void* y, const void* x, const u8* w, const void* bias, const i32* expert_ids, i64 slots, i64 used, i64 experts, i64 outputs, i64 columns, i32 dtype, bool x_per_slot) {
  const psi::TypeInfo& type = *psi::find_type(dtype & ~PSI_PACKED);
  const i64 matrix = dtype & PSI_PACKED ? psi::panel_count(outputs) * psi::panel_bytes(type, columns) : outputs * psi::row_bytes(type, columns);
  for (i64 e = 0; e < experts; e++)
    psi::reference_rows(outputs, columns, dtype, w + e * matrix, [&](i64 n, const double* row) {
      for (i64 s = 0; s < slots; s++)
        if (expert_ids[s] == e) psi::reference_dot(y, s * outputs + n, x, x_per_slot ? s : s / used, row, columns, bias, e * outputs + n, dtype);
    });
}

PSI_API i32 psi_moe_matmul(void* y, const void* x, const void* w, const void* bias, const void* expert_ids, void* scratch, i32 tokens, i32 used, i32 experts, i32 outputs, i32 columns, i32 dtype, i32 x_per_slot, f64 scratch_bytes) {
  PSI_OPENED("psi_moe_matmul");
  i32 status = check_moe("psi_moe_matmul", y, x, w, expert_ids, tokens, used, experts, outputs, columns, dtype, x_per_slot);
  if (status != PSI_OK) return status;
  if (!(dtype & PSI_PACKED)) return psi::fail(PSI_INVALID, "[psi_moe_matmul] expected packed weights (dtype | %d), got dtype %d. Use psi_pack.", PSI_PACKED, dtype);
  const i32 id = dtype & ~(PSI_PACKED | PSI_A16), parts = dtype & PSI_A16 && psi::find_type(id)->block > 1 ? 2 : 1;
  const i64 slots = (i64)tokens * used;
  const f64 needed = (f64)(x_per_slot ? slots : tokens) * columns * (dtype & PSI_A16 ? 4 : 2) + 64 + 4.0 * ((f64)slots + 3.0 * experts + 16);
  if (!scratch || !(scratch_bytes >= needed)) return psi::fail(PSI_INVALID, "[psi_moe_matmul] expected %.0f bytes of scratch, got %.0f.", needed, scratch ? scratch_bytes : 0);
  if ((uintptr_t)w % 64 != 0) return psi::fail(PSI_INVALID, "[psi_moe_matmul] expected weights aligned to 64 bytes.");
  if (tokens == 0) return PSI_OK;
  if (id == psi::F64) {
    moe_reference(y, x, (const u8*)w, bias, (const i32*)expert_ids, slots, used, experts, outputs, columns, id | PSI_PACKED, x_per_slot);
    return PSI_OK;
  }
  PSI_RUN(moe_matmul)({(float*)y, (const float*)x, (const u8*)w, (const float*)bias, (const i32*)expert_ids, (u8*)scratch, tokens, used, experts, outputs, columns, id, x_per_slot != 0, parts});
  return PSI_OK;
}

PSI_API i32 psi_moe_matmul_ref(void* y, const void* x, const void* w, const void* bias, const void* expert_ids, void*, i32 tokens, i32 used, i32 experts, i32 outputs, i32 columns, i32 dtype, i32 x_per_slot, f64) {
  i32 status = check_moe("psi_moe_matmul_ref", y, x, w, expert_ids, tokens, used, experts, outputs, columns, dtype, x_per_slot);
  if (status != PSI_OK) return status;
  moe_reference(y, x, (const u8*)w, bias, (const i32*)expert_ids, (i64)tokens * used, used, experts, outputs, columns, dtype & ~PSI_A16, x_per_slot);
  return PSI_OK;
}
#endif
