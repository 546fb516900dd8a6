/*
 * x as the products take it: bf16, nearest even; and for weight types with two PARTS (weights.cuh) what that leaves of x as
 * a second bf16, so that their sum is x to 16 bits or more. A row of two parts is units of 64 columns, the last filled up
 * with zeros: 64 rounded values, then their 64 rests.
 */
#pragma once
#include "instructions.h"

namespace psi {

/* Elements of a row of x in this form. */
template <class W>
__host__ __device__ constexpr i32 rounded_columns(i32 columns) {
  return W::PARTS == 1 ? columns : PSI_DIVIDE_UP(columns, 64) * 64 * W::PARTS;
}

/* What rounding leaves of a value: nothing where the rounded one is no number any more. */
__device__ __forceinline__ float bf16_rest(float value, float rounded) {
  return (__float_as_uint(rounded) & 0x7f800000u) == 0x7f800000u ? 0.0f : value - rounded;
}
__device__ __forceinline__ u32 pack_rests(float low, float high, u32 rounded) {
  return pack_bf16(bf16_rest(low, bf16_low(rounded)), bf16_rest(high, bf16_high(rounded)));
}

/* Four columns, from a multiple of 4 on, to a row in shared memory. */
template <int PARTS>
__device__ __forceinline__ void store_rounded(u8* row, i32 column, float4 v) {
  const uint2 rounded = make_uint2(pack_bf16(v.x, v.y), pack_bf16(v.z, v.w));
  if constexpr (PARTS == 1) {
    *(uint2*)(row + column * 2) = rounded;
  } else {
    u8* to = row + column / 64 * 256 + column % 64 * 2;
    *(uint2*)to = rounded;
    *(uint2*)(to + 128) = make_uint2(pack_rests(v.x, v.y, rounded.x), pack_rests(v.z, v.w, rounded.y));
  }
}

/* Threads that round_eight takes for rows. */
inline i64 rounding_threads(i64 rows, i32 columns, int parts) {
  return parts == 1 ? PSI_DIVIDE_UP(rows * columns, 8) : rows * PSI_DIVIDE_UP(columns, 64) * 8;
}

/* Rows in device memory, f32 [rows, columns] to rounded, which is aligned to 16 bytes: 8 values of the `thread`-th. */
template <int PARTS>
__device__ __forceinline__ void round_eight(u16* rounded, const float* x, i64 rows, i32 columns, i64 thread) {
  if constexpr (PARTS == 1) {
    const i64 first = thread * 8, count = rows * columns;
    if (first + 8 <= count && (uintptr_t)x % 16 == 0) {
      float4 a = *(const float4*)(x + first), b = *(const float4*)(x + first + 4);
      *(uint4*)(rounded + first) = make_uint4(pack_bf16(a.x, a.y), pack_bf16(a.z, a.w), pack_bf16(b.x, b.y), pack_bf16(b.z, b.w));
    } else {
      for (i64 i = first; i < min(first + 8, count); i++) rounded[i] = (u16)bf16_bits(x[i]);
    }
  } else {
    const i32 pieces = PSI_DIVIDE_UP(columns, 64) * 8, column = (i32)(thread % pieces) * 8;
    const i64 row = thread / pieces;
    if (row >= rows) return;
    const float* from = x + row * columns + column;
    float v[8];
    if (column + 8 <= columns && (uintptr_t)from % 16 == 0) {
      float4 a = *(const float4*)from, b = *(const float4*)(from + 4);
      v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
    } else {
#pragma unroll
      for (int i = 0; i < 8; i++) v[i] = column + i < columns ? from[i] : 0.0f;
    }
    u32 near[4], rest[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      near[i] = pack_bf16(v[2 * i], v[2 * i + 1]);
      rest[i] = pack_rests(v[2 * i], v[2 * i + 1], near[i]);
    }
    u16* to = rounded + (row * pieces + column / 64 * 8) * 16 + column % 64;
    *(uint4*)to = make_uint4(near[0], near[1], near[2], near[3]);
    *(uint4*)(to + 64) = make_uint4(rest[0], rest[1], rest[2], rest[3]);
  }
}

/* Bytes of scratch for rows of x as the products of a type take them. */
inline f64 rounded_bytes(i32 dtype, f64 rows, i32 columns) {
  if (dtype == BF16 || dtype == F16) return rows * PSI_DIVIDE_UP((i64)columns, 64) * 256;
  return rows * columns * 2;
}

}  // namespace psi
