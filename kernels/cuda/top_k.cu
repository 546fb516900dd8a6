/*
 * The k largest of each row and their positions, descending, the lower position first on ties; NaN counts as -inf. A block
 * of 1024 threads per row. Values become integers of the same order; four passes over the row find, byte by byte, the
 * k-th largest; those above it, and as many equal ones of the lowest positions as are missing, are collected and sorted.
 */
#include "instructions.h"

namespace psi {

constexpr int TOP_THREADS = 1024;
constexpr i32 TOP_MOST = 1024;

/* Sorts like the float; NaN like -inf, both zeros alike. */
__device__ __forceinline__ u32 rank_key(float v) {
  if (v != v) v = -INFINITY;
  u32 bits = __float_as_uint(v + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

struct TopShared {
  u32 counts[256];
  u32 prefix;  /* bytes of the k-th largest key that are known */
  u32 missing; /* how many of the k have that prefix */
  u32 taken, equal;
  u32 warps[32];
  u32 keys[TOP_MOST];
  i32 places[TOP_MOST];
};

/* Whether entry a of the sorted list comes before entry b. */
__device__ __forceinline__ bool before(const TopShared& s, u32 a, u32 b) {
  return s.keys[a] > s.keys[b] || (s.keys[a] == s.keys[b] && s.places[a] < s.places[b]);
}

__global__ void __launch_bounds__(TOP_THREADS) top_k_kernel(float* values, i32* ids, const float* x, i32 width, i32 k) {
  PSI_DYNAMIC_SHARED(memory);
  TopShared& s = *(TopShared*)memory;
  let_next_start();
  wait_for_inputs();
  const float* row = x + (i64)blockIdx.x * width;
  const i32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (threadIdx.x == 0) s.prefix = 0, s.missing = (u32)k, s.taken = 0, s.equal = 0;
  for (int byte = 3; byte >= 0; byte--) {
    if (threadIdx.x < 256) s.counts[threadIdx.x] = 0;
    __syncthreads();
    const u32 prefix = s.prefix, known = byte == 3 ? 0 : ~0u << (8 * (byte + 1));
    for (i32 i = threadIdx.x; i < width; i += TOP_THREADS) {
      u32 key = rank_key(row[i]);
      if ((key & known) == prefix) atomicAdd(&s.counts[key >> (8 * byte) & 255], 1u);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      u32 left = s.missing;
      int digit = 255;
      for (; digit > 0 && s.counts[digit] < left; digit--) left -= s.counts[digit];
      s.missing = left;
      s.prefix = prefix | (u32)digit << (8 * byte);
    }
    __syncthreads();
  }
  const u32 last = s.prefix, missing = s.missing, above = (u32)k - missing;
  /* Equal ones are numbered in order of position, a stretch of the row at a time. */
  for (i32 base = 0; base < width; base += TOP_THREADS) {
    const i32 i = base + (i32)threadIdx.x;
    const u32 key = i < width ? rank_key(row[i]) : 0;
    if (i < width && key > last) {
      u32 at = atomicAdd(&s.taken, 1u);
      s.keys[at] = key, s.places[at] = i;
    }
    const bool equal = i < width && key == last;
    const u32 all = __ballot_sync(~0u, equal);
    if (lane == 0) s.warps[warp] = (u32)__popc(all);
    __syncthreads();
    u32 at = s.equal;
    for (int w = 0; w < warp; w++) at += s.warps[w];
    at += (u32)__popc(all & ((1u << lane) - 1));
    if (equal && at < missing) s.keys[above + at] = key, s.places[above + at] = i;
    __syncthreads();
    if (threadIdx.x == 0)
      for (int w = 0; w < TOP_THREADS / 32; w++) s.equal += s.warps[w];
    __syncthreads();
  }
  /* a place in the list is the number of entries before it */
  for (u32 e = threadIdx.x; e < (u32)k; e += TOP_THREADS) {
    u32 rank = 0;
    for (u32 o = 0; o < (u32)k; o++) rank += before(s, o, e) ? 1 : 0;
    float v = row[s.places[e]];
    values[(i64)blockIdx.x * k + rank] = v != v ? -INFINITY : v;
    ids[(i64)blockIdx.x * k + rank] = s.places[e];
  }
}

}  // namespace psi

PSI_API i32 psi_top_k(void* values, void* ids, const void* x, i32 rows, i32 width, i32 k) {
  using namespace psi;
  if (!values || !ids || !x || rows < 0 || k < 1 || k > width)
    return fail(PSI_INVALID, "[psi_top_k] expected non-null pointers and k from 1 to the width %d, got %d.", width, k);
  if (k > TOP_MOST) return fail(PSI_UNSUPPORTED, "[psi_top_k] expected k of at most %d on CUDA, got %d.", TOP_MOST, k);
  return launch("psi_top_k", top_k_kernel, dim3((unsigned)rows), dim3(TOP_THREADS), sizeof(TopShared), (float*)values, (i32*)ids, (const float*)x, width, k);
}
