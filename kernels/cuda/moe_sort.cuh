/* Slots in order of their expert (moe_sort.cu), and where the two arrays stand in an op's scratch. */
#pragma once
#include "launch.h"

namespace psi {

struct SortedSlots {
  i32* offsets; /* [experts + 1]: slots of expert e are sorted[offsets[e]] up to sorted[offsets[e+1]] */
  i32* sorted;  /* [slots], ascending within an expert */
};

/* In `scratch` of 4 * (slots + experts + 1) bytes, aligned to 4. */
inline SortedSlots sorted_slots(void* scratch, i64 experts) { return {(i32*)scratch, (i32*)scratch + experts + 1}; }

/* Enqueues the sort of expert_ids i32 [slots]. Ids outside 0..experts-1 belong to no expert. */
i32 sort_slots(const char* op, SortedSlots out, const i32* expert_ids, i64 slots, i32 experts);

}  // namespace psi
