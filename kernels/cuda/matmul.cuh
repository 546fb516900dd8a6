/* What the products of few rows share: their arguments, and how a warp takes rows of f32 to shared memory. */
#pragma once
#include "instructions.h"
#include "product.h"
#include "round.cuh"
#include "weights.cuh"

namespace psi {

struct MatmulArguments {
  float* y;
  const float* x;
  const u16* rounded; /* x as bf16 (round.cuh), for more than 8 rows; aligned to 16 bytes */
  const u8* w;
  const float* bias;
  i32 rows, outputs, columns;
  i32 units, segment_units, segments;
  bool ready; /* x was there before the kernel before this one began; only up to MATMUL_FLOAT_ROWS rows */
};

constexpr int MATMUL_SEGMENTS = 8, MATMUL_THREADS = 32 * MATMUL_SEGMENTS;
constexpr i32 MATMUL_FLOAT_ROWS = 2; /* up to so many rows every block rounds x itself */

__host__ __device__ constexpr i32 matmul_row_bytes(i32 units) { return units * 128 + 16; } /* shifted against bank conflicts */

/* A warp's columns of every row, as bf16 in shared memory: from f32, 16 bytes a lane, FLIGHT loads at once. */
template <class W, int FLIGHT = 3>
__device__ __forceinline__ void stage_floats(const MatmulArguments& p, u8* shared, i32 row_bytes, i32 first, i32 end) {
  const i32 lane = threadIdx.x % 32;
  for (i32 row = 0; row < p.rows; row++) {
    const float* from = p.x + (i64)row * p.columns;
    u8* to = shared + row * row_bytes;
#pragma unroll 1
    for (i32 base = first * 64 + lane * 4; base < end * 64; base += 128 * FLIGHT) {
      float4 v[FLIGHT];
#pragma unroll
      for (int i = 0; i < FLIGHT; i++) {
        v[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (base + 128 * i < min(end * 64, p.columns)) v[i] = *(const float4*)(from + base + 128 * i);
      }
#pragma unroll
      for (int i = 0; i < FLIGHT; i++)
        if (base + 128 * i < end * 64) store_rounded<W::PARTS>(to, base + 128 * i, v[i]);
    }
  }
}

}  // namespace psi
