/* e4m3, the cache's type of 8 bits, as kernels/common/fp8.h has it: the same bits. */
#pragma once
#include "instructions.h"

namespace psi {

/* Four e4m3 as two pairs of f16, exactly; NaN stays NaN. */
__device__ __forceinline__ void e4m3_to_f16(u32 codes, u32& low, u32& high) {
#if !defined(PSI_STANDIN) && __CUDA_ARCH__ >= 890
  asm("{\n.reg .b16 a, b;\nmov.b32 {a, b}, %2;\ncvt.rn.f16x2.e4m3x2 %0, a;\ncvt.rn.f16x2.e4m3x2 %1, b;\n}" : "=r"(low), "=r"(high) : "r"(codes));
#else
  u32 halves[4];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const u32 code = codes >> 8 * i, size = code & 0x7f, sign = (code & 0x80) << 8;
    /* its bits as those of an f16 are 2^-8 of it, subnormals too */
    halves[i] = size == 0x7f ? sign | 0x7fff : f16_bits(f16_value(size << 7) * 256.0f) | sign;
  }
  low = halves[0] | halves[1] << 16, high = halves[2] | halves[3] << 16;
#endif
}

__device__ __forceinline__ u32 e4m3_bits(float x) {
  const u32 b = __float_as_uint(x), sign = b >> 24 & 0x80, size = b & 0x7fffffff;
  if (size > 0x7f800000) return sign | 0x7f;
  if (size >= 0x43e00000) return sign | 0x7e; /* 448 */
  /* below 2^-6: 2^14 is added, whose last place is the subnormal's unit, so the addition rounds */
  if (size < 0x3c800000) return sign | (__float_as_uint(__uint_as_float(size) + 16384.0f) - 0x46800000);
  return sign | (((size + 0x7ffff + (size >> 20 & 1)) >> 20) - (120 << 3));
}

}  // namespace psi
