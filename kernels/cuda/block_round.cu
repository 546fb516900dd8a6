/*
 * y = x, f32 [count], as blocks of MXFP4 or Q8_0 would hold it, f32 or bf16; the CPU's bits (kernels/cpu/block_round.cpp).
 * A warp makes four blocks of 32: each lane four neighbours, eight lanes a block. No product is followed by a sum, so nothing
 * is fused. x must lie at a multiple of 16 bytes.
 */
#include "file_block.cuh"
#include "train.cuh"

namespace psi {

/* Twice the e2m1 value nearest to v; of two as near the one nearer to zero. What is too small for a scale's inverse is 0. */
__device__ __forceinline__ float nearest_fp4(float v) {
  const float a = fabsf(v);
  const float level = !(a > 0.5f) || a > 3e38f ? 0.0f : a <= 1.5f ? 1.0f : a <= 2.5f ? 2.0f : a <= 3.5f ? 3.0f : a <= 5.0f ? 4.0f : a <= 7.0f ? 6.0f : a <= 10.0f ? 8.0f : 12.0f;
  return level == 0.0f ? 0.0f : v < 0.0f ? -level : level;
}
/* A code has no zero below zero. */
__device__ __forceinline__ float nearest_byte(float v) { return (!(v > -127.0f) ? -127.0f : v >= 127.0f ? 127.0f : roundf(v)) + 0.0f; }

/* Exponent of a number above 0 as ilogb gives it. */
__device__ __forceinline__ i32 exponent_of(float v) {
  const u32 bits = __float_as_uint(v);
  if (bits >= 0x00800000u) return (i32)(bits >> 23) - 127;
  i32 e = -127; /* subnormal: the place of the highest bit */
  for (u32 mantissa = bits; mantissa < 0x00400000u; mantissa <<= 1) e--;
  return e;
}

__global__ void block_round_kernel(Out y, const float* x, i32 format, i64 count) {
  let_next_start();
  wait_for_inputs();
  const i64 i = flat_place();
  const float4 v = i < count ? *(const float4*)(x + i) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  float largest = fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w)));
  for (int mask = 4; mask > 0; mask >>= 1) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, mask));
  if (i >= count) return;
  float4 r;
  if (format == MXFP4) {
    const i32 e = largest > 0.0f ? min(max(exponent_of(largest) - 2 + 127, 0), 254) : 0;
    const float scale = fp4_scale((u32)e), inverse = 1.0f / scale;
    r = make_float4(scale * nearest_fp4(v.x * inverse), scale * nearest_fp4(v.y * inverse), scale * nearest_fp4(v.z * inverse), scale * nearest_fp4(v.w * inverse));
  } else {
    const float d = largest / 127.0f, inverse = d != 0.0f ? 1.0f / d : 0.0f, stored = f16_value(f16_bits(d));
    r = make_float4(stored * nearest_byte(v.x * inverse), stored * nearest_byte(v.y * inverse), stored * nearest_byte(v.z * inverse), stored * nearest_byte(v.w * inverse));
  }
  y.put4(i, r);
}

}  // namespace psi

PSI_API i32 psi_block_round(void* y, const void* x, i32 format, i32 to, f64 count) {
  using namespace psi;
  const bool known = (format == MXFP4 || format == Q8_0) && (to == F32 || to == BF16);
  if (!y || !x || !known || !(count >= 0) || (i64)count % 32 != 0)
    return fail(PSI_INVALID, "[psi_block_round] expected pointers, MXFP4 or Q8_0 to f32 or bf16, and whole blocks of 32, got types %d and %d, count %.0f.", format, to, count);
  return launch("psi_block_round", block_round_kernel, flat_grid((i64)count), dim3(FLAT_THREADS), 0, Out{y, to == BF16}, (const float*)x, format, (i64)count);
}
