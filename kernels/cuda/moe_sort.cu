/*
 * Slots in order of their expert, ascending within one: a counting sort in which block e counts the ids below e, which
 * is where its expert begins, and writes its own slots there. Blocks do not meet, and nothing depends on their order.
 *
 * Each warp of a block looks at a run of consecutive slots, twice: to count, and, once it knows the counts of the warps
 * before it, to write.
 */
#include "moe_sort.cuh"

namespace psi {

constexpr int SORT_THREADS = 1024, SORT_WARPS = SORT_THREADS / 32;

__global__ void __launch_bounds__(SORT_THREADS) sort_slots_kernel(i32* offsets, i32* sorted, const i32* expert_ids, i32 slots) {
  __shared__ i32 below[SORT_WARPS], equal[SORT_WARPS];
  let_next_start();
  const i32 expert = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const i32 run = PSI_DIVIDE_UP(PSI_DIVIDE_UP(slots, SORT_WARPS), 32) * 32;
  const i32 begin = (i32)min((i64)warp * run, (i64)slots), end = min(begin + run, slots);
  wait_for_inputs();
  i32 smaller = 0, own = 0;
#pragma unroll 4
  for (i32 first = begin; first < end; first += 32) {
    i32 id = first + lane < end ? expert_ids[first + lane] : 0x7fffffff;
    smaller += __popc(__ballot_sync(~0u, id < expert));
    own += __popc(__ballot_sync(~0u, id == expert));
  }
  if (lane == 0) {
    below[warp] = smaller;
    equal[warp] = own;
  }
  __syncthreads();
  i32 start = 0, at = 0;
  for (int w = 0; w < SORT_WARPS; w++) {
    start += below[w];
    at += w < warp ? equal[w] : 0;
  }
  if (threadIdx.x == 0) offsets[expert] = start;
  if (expert == (i32)gridDim.x - 1) return; /* only where the last expert ends */
  at += start;
  for (i32 first = begin; first < end; first += 32) {
    bool mine = first + lane < end && expert_ids[first + lane] == expert;
    u32 all = __ballot_sync(~0u, mine);
    if (mine) sorted[at + __popc(all & ((1u << lane) - 1))] = first + lane;
    at += __popc(all);
  }
}

i32 sort_slots(const char* op, SortedSlots out, const i32* expert_ids, i64 slots, i32 experts) {
  return launch(op, sort_slots_kernel, dim3((unsigned)experts + 1), dim3(SORT_THREADS), 0, out.offsets, out.sorted, expert_ids, (i32)slots);
}

}  // namespace psi
