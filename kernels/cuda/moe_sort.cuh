/* What a grouped product over many slots needs first (moe_sort.cu): slots in order of their expert, and x as bf16. */
#pragma once
#include "launch.h"

namespace psi {

struct SortedSlots {
  i32* offsets; /* [experts + 1]: slots of expert e are sorted[offsets[e]] up to sorted[offsets[e + 1]] */
  i32* sorted;  /* [slots], ascending within an expert */
};

/* Enqueues both in one launch: expert_ids i32 [slots] to `out`, x f32 [count] to rounded bf16 [count], aligned to 16
   bytes. Ids outside 0..experts-1 belong to no expert. experts -1: only the rounding. */
i32 sort_slots(const char* op, SortedSlots out, u16* rounded, const i32* expert_ids, const float* x, i64 slots, i32 experts, i64 count);

}  // namespace psi
