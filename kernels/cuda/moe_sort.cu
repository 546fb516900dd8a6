/*
 * Slots in order of their expert, ascending within one: a counting sort in which block e counts the ids below e, which
 * is where its expert begins, and writes its own slots there. Blocks do not meet, and nothing depends on their order.
 * Each warp of a block looks at a run of consecutive slots, twice: to count, and, once it knows the counts of the warps
 * before it, to write. The blocks after them round x to bf16, 8 elements a thread.
 */
#include "moe_sort.cuh"

#include "round.cuh"

namespace psi {

/* moe_launch.cuh */
extern const i32* ready_ids;
extern u64 ready_launch;
const i32* ready_ids = nullptr;
u64 ready_launch = 0;
/* matmul_ring.cuh */
extern const void *shared_rows, *gated_rows;
extern u64 shared_launch, shared_after;
const void *shared_rows = nullptr, *gated_rows = nullptr;
u64 shared_launch = 0, shared_after = 0;

constexpr int SORT_THREADS = 1024, SORT_WARPS = SORT_THREADS / 32;

struct SortArguments {
  SortedSlots out;
  const i32* expert_ids;
  i32 slots, experts;
  RowsToRound rows;
};

__device__ void sort_expert(const SortArguments& p, i32 expert) {
  __shared__ i32 below[SORT_WARPS], equal[SORT_WARPS];
  const i32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const i32 run = PSI_DIVIDE_UP(PSI_DIVIDE_UP(p.slots, SORT_WARPS), 32) * 32;
  const i32 begin = (i32)min((i64)warp * run, (i64)p.slots), end = (i32)min((i64)begin + run, (i64)p.slots);
  i32 smaller = 0, own = 0;
#pragma unroll 4
  for (i32 first = begin; first < end; first += 32) {
    i32 id = first + lane < end ? p.expert_ids[first + lane] : 0x7fffffff;
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
  if (threadIdx.x == 0) p.out.offsets[expert] = start;
  if (expert == p.experts) return; /* only where the last expert ends */
  at += start;
  for (i32 first = begin; first < end; first += 32) {
    bool mine = first + lane < end && p.expert_ids[first + lane] == expert;
    u32 all = __ballot_sync(~0u, mine);
    if (mine) p.out.sorted[at + __popc(all & ((1u << lane) - 1))] = first + lane;
    at += __popc(all);
  }
}

template <int PARTS>
__global__ void __launch_bounds__(SORT_THREADS) sort_slots_kernel(const __grid_constant__ SortArguments p) {
  let_next_start();
  wait_for_inputs();
  if ((i32)blockIdx.x <= p.experts) sort_expert(p, (i32)blockIdx.x);
  else round_eight<PARTS>(p.rows.rounded, p.rows.x, p.rows.rows, p.rows.columns, (i64)(blockIdx.x - p.experts - 1) * SORT_THREADS + threadIdx.x);
}

i32 sort_slots(const char* op, SortedSlots out, const i32* expert_ids, i64 slots, i32 experts, const RowsToRound& rows) {
  const i64 rounding = PSI_DIVIDE_UP(rounding_threads(rows.rows, rows.columns, rows.parts), SORT_THREADS);
  SortArguments p = {out, expert_ids, (i32)slots, experts, rows};
  return launch(op, rows.parts == 1 ? sort_slots_kernel<1> : sort_slots_kernel<2>, dim3((unsigned)(experts + 1 + rounding)), dim3(SORT_THREADS), 0, p);
}

}  // namespace psi
