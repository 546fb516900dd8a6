/* Exchanges among the four lanes that hold one row of a matrix product's sums. */
#pragma once
#include "instructions.h"

namespace psi {

/* Four bf16 pairs that a quad's lanes hold for columns 8j + 2t to eight columns a lane: lane t gets those of j = t. */
__device__ __forceinline__ uint4 quad_transposed(u32 v0, u32 v1, u32 v2, u32 v3, int t) {
  /* lanes differing in bit 1 exchange halves, then those differing in bit 0 */
  const bool high = t & 2, odd = t & 1;
  const u32 s0 = __shfl_xor_sync(~0u, high ? v0 : v2, 2), s1 = __shfl_xor_sync(~0u, high ? v1 : v3, 2);
  const u32 a0 = high ? v2 : v0, a1 = high ? v3 : v1; /* of j = 2 high, 2 high + 1; own t, and s of t ^ 2 */
  const u32 r0 = __shfl_xor_sync(~0u, odd ? a0 : a1, 1), r1 = __shfl_xor_sync(~0u, odd ? s0 : s1, 1);
  const u32 own = odd ? a1 : a0, far = odd ? s1 : s0; /* of j = t: from lanes t, t ^ 2; r0, r1 from t ^ 1, t ^ 3 */
  const u32 from[4] = {own, r0, far, r1};            /* lane t ^ i */
  return t == 0   ? make_uint4(from[0], from[1], from[2], from[3])
         : t == 1 ? make_uint4(from[1], from[0], from[3], from[2])
         : t == 2 ? make_uint4(from[2], from[3], from[0], from[1])
                  : make_uint4(from[3], from[2], from[1], from[0]);
}

}  // namespace psi
