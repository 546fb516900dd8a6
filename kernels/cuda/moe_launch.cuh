/* Chooses the form of a product with the chosen experts' matrices. The choice changes the time, never a bit. */
#pragma once
#include "moe.cuh"
#include "moe_held.cuh"
#include "moe_ring.cuh"

namespace psi {

/* As many slots at once as shared memory has room for; 0: not even one, or rows that this form does not read. */
template <class W>
i32 moe_columns_at_once(const MoeArguments& p, i32 tokens) {
  const i32 bytes = moe_slot_bytes(PSI_DIVIDE_UP(p.columns, 64) * W::PARTS);
  if (p.slots > MOE_DECODE_SLOTS || p.columns % 8 != 0 || (uintptr_t)p.x % 16 != 0 || bytes + 4096 > device.largest_shared) return 0;
  i32 most = min(tokens, 16);
  while (most > 1 && most * bytes > MOE_SHARED_GOAL) most--;
  return most;
}

template <class W, int GROUPS, bool GATED>
i32 launch_moe_decode(const char* op, const MoeArguments& p, i32 columns_at_once) {
  const MoeShape s = moe_shape<W>(p, columns_at_once);
  const dim3 grid((unsigned)PSI_DIVIDE_UP(s.tiles, 2), (unsigned)min(p.slots, p.experts));
  return launch(op, moe_decode_kernel<W, GROUPS, GATED>, grid, dim3(MOE_THREADS), (size_t)columns_at_once * moe_slot_bytes(s.units * W::PARTS), p, s);
}

/* expert_ids of the last psi_moe_glu whose kernel let the next one start only when they were there, and its launch. */
extern const i32* ready_ids;
extern u64 ready_launch;
/* matmul_ring.cuh: a dense MLP beside the routed experts */
extern const void *shared_rows, *gated_rows;
extern u64 shared_launch, shared_after;

template <class W, bool GATED>
i32 moe_product(const char* op, MoeArguments p, i32 tokens, void* scratch) {
  const i64 inputs = p.slots / p.slots_per_input;
  const i32 columns = moe_columns_at_once<W>(p, tokens);
  u16* rounded = (u16*)(((uintptr_t)scratch + 15) & ~(uintptr_t)15);
  p.rounded = rounded;
  p.ids_ready = ready_launch == launches && ready_ids == p.expert_ids;
  const auto note = [&](i32 status) {
    if (GATED && status == PSI_OK) ready_ids = p.expert_ids, gated_rows = p.y, ready_launch = launches;
    if (!GATED && p.lets_late && status == PSI_OK) shared_after = launches;
    return status;
  };
  if (p.slots >= FEWEST_RING_SLOTS) {
    const i32 groups = moe_ring_groups(p);
    if (groups == 2 && moe_ring_stages<W>(p, 16) > 1) return note(launch_moe_ring<W, 2, GATED>(op, p));
    if (moe_ring_stages<W>(p, 8) > 1) return note(launch_moe_ring<W, 1, GATED>(op, p));
  }
  if (columns > 8) {
    PSI_TRY(sort_slots(op, {}, nullptr, 0, -1, {rounded, p.x, inputs, p.columns, W::PARTS}));
    p.ids_ready = 0;
    return note(launch_moe_decode<W, 2, GATED>(op, p, columns));
  }
  p.lets_late = !GATED && shared_launch == launches;
  if constexpr (moe_holds<W>()) {
    bool taken = false;
    const i32 status = columns > 0 ? launch_moe_held<W, GATED>(op, p, taken) : PSI_OK;
    if (taken) return note(status);
  }
  if (columns > 0) return note(launch_moe_decode<W, 1, GATED>(op, p, columns));
  p.lets_late = 0;
  i32* arrays = (i32*)(((uintptr_t)(rounded + inputs * rounded_columns<W>(p.columns)) + 3) & ~(uintptr_t)3);
  const SortedSlots groups = {arrays, arrays + p.experts + 1};
  PSI_TRY(sort_slots(op, groups, p.expert_ids, p.slots, p.experts, {rounded, p.x, inputs, p.columns, W::PARTS}));
  const ProductGroups by_expert = {groups.offsets, groups.sorted, p.experts, p.slots, p.slots_per_input};
  if constexpr (GATED) return product_grouped_glu<W>(op, p.y, rounded, p.w, p.bias, by_expert, p.gate, p.outputs / 2, p.columns);
  else return product_grouped<W>(op, p.y, rounded, p.w, p.bias, by_expert, p.outputs, p.columns);
}

/* What both launchers ask for. */
inline i32 check_moe(const char* op, const MoeArguments& p, const void* scratch, f64 scratch_bytes, i32 tokens, i32 used, i32 dtype) {
  if (!p.y || !p.x || !p.w || !p.expert_ids) return fail(PSI_INVALID, "[%s] expected non-null pointers.", op);
  if (tokens < 0 || used < 1 || p.experts < 1 || p.outputs < 1 || p.columns < 1)
    return fail(PSI_INVALID, "[%s] expected tokens >= 0, used, experts, outputs, columns >= 1, got %d, %d, %d, %d, %d.", op, tokens, used, p.experts,
                p.outputs, p.columns);
  if ((i64)tokens * used > INT32_MAX) return fail(PSI_INVALID, "[%s] expected tokens * used below 2^31, got %d * %d.", op, tokens, used);
  if (!(dtype & PSI_PACKED)) return fail(PSI_INVALID, "[%s] expected packed weights (dtype | %d), got dtype %d. Use psi_pack.", op, PSI_PACKED, dtype);
  const TypeInfo* type;
  PSI_TRY(check_weight_type(op, dtype & ~PSI_PACKED, p.columns, &type));
  if ((uintptr_t)p.w % 64 != 0) return fail(PSI_INVALID, "[%s] expected weights aligned to 64 bytes.", op);
  const f64 inputs = (f64)tokens * used / p.slots_per_input;
  const f64 needed = rounded_bytes(dtype & ~PSI_PACKED, inputs, p.columns) + 64 + 4.0 * ((f64)tokens * used + 3.0 * p.experts + 16);
  if (!scratch || !(scratch_bytes >= needed))
    return fail(PSI_INVALID, "[%s] expected %.0f bytes of scratch, got %.0f.", op, needed, scratch ? scratch_bytes : 0);
  return PSI_OK;
}

}  // namespace psi
