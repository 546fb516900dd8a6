/* What a grouped product over many slots needs first (moe_sort.cu): slots in order of their expert, and x as bf16. */
#pragma once
#include "launch.h"

namespace psi {

struct SortedSlots {
  i32* offsets; /* [experts + 1]: slots of expert e are sorted[offsets[e]] up to sorted[offsets[e + 1]] */
  i32* sorted;  /* [slots], ascending within an expert */
};

/* x f32 [rows, columns] to `rounded`, bf16 in 1 or 2 parts (round.cuh), aligned to 16 bytes. */
struct RowsToRound {
  u16* rounded;
  const float* x;
  i64 rows;
  i32 columns, parts;
};

/* Enqueues both in one launch: expert_ids i32 [slots] to `out`, and the rounding. Ids outside 0..experts-1 belong to no
   expert. experts -1: only the rounding. */
i32 sort_slots(const char* op, SortedSlots out, const i32* expert_ids, i64 slots, i32 experts, const RowsToRound& rows);

}  // namespace psi
