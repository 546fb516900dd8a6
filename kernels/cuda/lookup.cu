/*
 * lookup: y[t] = table[ids[t]]. lookup_grad: dtable[ids[t]] += dy[t] with t ascending: a block owns a few ids, walks all
 * tokens in order, and adds the rows of those that are its own, a thread being some columns; so no place has two writers.
 * An id outside the vocabulary reads zeros and adds nothing.
 */
#include "train.cuh"

namespace psi {

__global__ void lookup_kernel(Out y, In table, const i32* ids, i64 count, i32 width, i32 vocabulary) {
  let_next_start();
  wait_for_inputs();
  const i64 i = flat_place();
  if (i >= count) return;
  if (width % 4 == 0) {
    const i32 id = ids[i / width];
    y.put4(i, (u32)id < (u32)vocabulary ? table.at4((i64)id * width + i % width) : make_float4(0, 0, 0, 0));
    return;
  }
  for (i64 k = i; k < i + 4 && k < count; k++) {
    const i32 id = ids[k / width];
    y.put(k, (u32)id < (u32)vocabulary ? table.at((i64)id * width + k % width) : 0.0f);
  }
}

constexpr int LOOKUP_THREADS = 256, LOOKUP_WARPS = LOOKUP_THREADS / 32, LOOKUP_TOKENS = 2048, LOOKUP_AHEAD = 16, MOST_IDS = 32;
constexpr int LOOKUP_OWN = LOOKUP_TOKENS / LOOKUP_THREADS; /* tokens of a thread in a walk over LOOKUP_TOKENS */

__global__ void __launch_bounds__(LOOKUP_THREADS) lookup_grad_kernel(float* dtable, In dy, const i32* ids, i32 tokens, i32 width, i32 vocabulary, i32 owned) {
  __shared__ i32 found[LOOKUP_TOKENS], found_id[LOOKUP_TOKENS], counts[LOOKUP_WARPS];
  let_next_start();
  wait_for_inputs();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const i32 first = blockIdx.x * owned, last = min(first + owned, vocabulary);
  for (i32 t0 = 0; t0 < tokens; t0 += LOOKUP_TOKENS) {
    /* thread i looks at tokens t0 + LOOKUP_OWN * i ..., so the list is in their order */
    u32 mine = 0;
    const i32 t = t0 + (i32)threadIdx.x * LOOKUP_OWN;
    for (int k = 0; k < LOOKUP_OWN; k++)
      if (t + k < tokens && ids[t + k] >= first && ids[t + k] < last) mine |= 1u << k;
    i32 before = __popc(mine);
    const i32 own = before;
    for (int o = 1; o < 32; o *= 2) {
      const i32 more = __shfl_up_sync(~0u, before, o);
      if (lane >= o) before += more;
    }
    __syncthreads();
    if (lane == 31) counts[warp] = before;
    __syncthreads();
    i32 at = before - own, total = 0;
    for (int w = 0; w < LOOKUP_WARPS; w++) {
      if (w < warp) at += counts[w];
      total += counts[w];
    }
    for (int k = 0; k < LOOKUP_OWN; k++)
      if (mine >> k & 1) found[at] = t + k, found_id[at++] = ids[t + k];
    __syncthreads();
    for (i32 c = threadIdx.x; c < width; c += LOOKUP_THREADS) {
      i32 id = -1;
      float sum = 0;
      /* a frequent id is a long chain of sums: its terms are read ahead of it */
      for (i32 f0 = 0; f0 < total; f0 += LOOKUP_AHEAD) {
        float terms[LOOKUP_AHEAD];
#pragma unroll
        for (int a = 0; a < LOOKUP_AHEAD; a++) terms[a] = dy.at((i64)found[min(f0 + a, total - 1)] * width + c);
#pragma unroll
        for (int a = 0; a < LOOKUP_AHEAD; a++) {
          if (f0 + a >= total) break;
          const i32 next = found_id[f0 + a];
          if (next != id) {
            if (id >= 0) dtable[(i64)id * width + c] = sum;
            id = next;
            sum = dtable[(i64)id * width + c];
          }
          sum += terms[a];
        }
      }
      if (id >= 0) dtable[(i64)id * width + c] = sum;
    }
  }
}

static i32 check_lookup(const char* where, const void* y, const void* table, const void* ids, i32 tokens, i32 width, i32 vocabulary, i32 dtype) {
  PSI_REFUSE_F64(where, dtype);
  if (!y || !table || !ids || tokens < 0 || width < 1 || vocabulary < 1)
    return fail(PSI_INVALID, "[%s] expected pointers and positive sizes, got tokens %d, width %d, vocabulary %d.", where, tokens, width, vocabulary);
  return PSI_OK;
}

}  // namespace psi

PSI_API i32 psi_lookup(void* y, const void* table, const void* ids, i32 tokens, i32 width, i32 vocabulary, i32 dtype) {
  using namespace psi;
  PSI_TRY(check_lookup("psi_lookup", y, table, ids, tokens, width, vocabulary, dtype));
  const i64 count = (i64)tokens * width;
  return launch("psi_lookup", lookup_kernel, flat_grid(count), dim3(FLAT_THREADS), 0, Out{y, half_at(dtype, 0)}, In{table, half_at(dtype, 1)}, (const i32*)ids, count, width, vocabulary);
}
PSI_API i32 psi_lookup_grad(void* dtable, const void* dy, const void* ids, i32 tokens, i32 width, i32 vocabulary, i32 dtype) {
  using namespace psi;
  PSI_TRY(check_lookup("psi_lookup_grad", dtable, dy, ids, tokens, width, vocabulary, dtype));
  if (half_at(dtype, 0)) return fail(PSI_UNSUPPORTED, "[psi_lookup_grad] expected sums in f32, got bf16.");
  const i32 owned = max(1, min(MOST_IDS, vocabulary / 128));
  return launch("psi_lookup_grad", lookup_grad_kernel, dim3(PSI_DIVIDE_UP(vocabulary, owned)), dim3(LOOKUP_THREADS), 0, (float*)dtable, In{dy, half_at(dtype, 1)},
                (const i32*)ids, tokens, width, vocabulary, owned);
}
