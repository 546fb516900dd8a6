/*
 * The product of product.cuh on Hopper's wgmma. A block has GROUPS warpgroups, each 64 outputs x ROWS rows, which share
 * the stages. The fragments of a k-step are made while the products before it run. Sums of finished segments wait in
 * shared memory, 16 bytes a thread side by side, since they would fill the registers. The next tile's first stages are
 * on their way while a finished tile is stored.
 */
#pragma once
#include "product.cuh"
#include "wgmma.h"

namespace psi {

template <int GROUPS, int ROWS>
struct WgmmaProduct {
  static constexpr int THREADS = 128 * GROUPS, OUTPUTS = 64 * GROUPS;
  static constexpr int STAGE = ROWS * PRODUCT_ROW_BYTES;
  static constexpr int STAGES = ROWS > 64 ? 5 : 6;
  static constexpr int BLOCKS = GROUPS * ROWS > 128 ? 1 : 2; /* on a multiprocessor at once */
  /* A stage is refilled two units after its last product was issued: that one has ended then, without waiting for it. */
  static constexpr int AHEAD = STAGES - 2;
  static constexpr int SUMS = ROWS / 2; /* of a thread */
  static constexpr size_t RING_BYTES = STAGES * STAGE;
  /* after the ring: the segments' sums, then in their place the finished tile */
  static constexpr size_t SHARED = RING_BYTES + (size_t)ROWS * (OUTPUTS + PRODUCT_PAD) * sizeof(float);
};

constexpr int WEIGHTS_AHEAD = 8; /* units that L2 is asked for before their use */

/* Adds a segment's sums to those before it (`first`: there are none); a few at a time, for registers' sake. */
template <int THREADS, int COUNT>
__device__ __forceinline__ void add_segment(float4* totals, const float (&sum)[COUNT], bool first) {
  constexpr int PIECE = 4;
#pragma unroll
  for (int i = 0; i < COUNT / 4; i += PIECE) {
    float4 total[PIECE];
#pragma unroll
    for (int k = 0; k < PIECE; k++) total[k] = make_float4(sum[4 * (i + k)], sum[4 * (i + k) + 1], sum[4 * (i + k) + 2], sum[4 * (i + k) + 3]);
    float4* at = totals + i * THREADS + threadIdx.x;
    if (!first)
#pragma unroll
      for (int k = 0; k < PIECE; k++) {
        float4 before = at[k * THREADS];
        total[k] = make_float4(before.x + total[k].x, before.y + total[k].y, before.z + total[k].z, before.w + total[k].w);
      }
#pragma unroll
    for (int k = 0; k < PIECE; k++) at[k * THREADS] = total[k];
    asm volatile("" ::: "memory");
  }
}

/*
 * The A fragment of a k-step. That of 16-bit floats would be the loaded registers themselves, and the compiler lets no product run while
 * registers of another are loaded; times one they are new ones with the same bits.
 */
template <class W>
__device__ __forceinline__ void wgmma_fragment(const typename W::Raw& raw, int step, u32* a) {
  W::fragment(raw, step, a);
  if constexpr (W::ID == BF16 || W::ID == F16)
#pragma unroll
    for (int i = 0; i < 4; i++) a[i] = mul_bf16x2(a[i], 0x3f803f80u);
}

template <class W, int GROUPS, int ROWS>
__global__ void __launch_bounds__(128 * GROUPS, (WgmmaProduct<GROUPS, ROWS>::BLOCKS)) product_wgmma_kernel(const __grid_constant__ ProductArguments p) {
#if defined(PSI_WGMMA)
  using Form = WgmmaProduct<GROUPS, ROWS>;
  PSI_DYNAMIC_SHARED(shared);
  float4* totals = (float4*)(shared + Form::RING_BYTES);
  float* tile = (float*)totals;
  const u64 ring = wgmma_rows(shared);
  let_next_start();
  wait_for_inputs();
  const ProductShape s = product_shape<W>(p, Form::OUTPUTS);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  /* what this lane asks L2 for; a tile's bytes are about its units' bytes one after the other */
  const i32 unit_bytes = (i32)(s.tile_bytes / s.units), last_fetch = (i32)s.tile_bytes - 1, fetch = unit_bytes / 32 * lane;

  ProductRows rows;
  ProductInput<ROWS, Form::THREADS> input;
  typename W::Raw raw;
  const u8* weights;
  i64 id = blockIdx.x;
  auto start = [&] {
    if (!find_product_rows(p, (i32)(id / s.output_tiles), ROWS, rows)) return false;
    weights = p.w + rows.matrix * s.matrix_bytes;
    weights += product_weight_tile(p, s, (i32)(id % s.output_tiles), warp, Form::OUTPUTS / 16) * s.tile_bytes;
#pragma unroll
    for (int u = 1; u < WEIGHTS_AHEAD; u++) prefetch_l2(weights + min(u * unit_bytes + fetch, last_fetch));
    input.start(p, rows);
#pragma unroll
    for (int u = 0; u < Form::AHEAD; u++) {
      input.copy(p, shared + u * Form::STAGE, u);
      copy_async_commit();
    }
    W::load(raw, weights, s.weight_units, 0, lane);
    return true;
  };

  for (bool more = start(); more;) {
    u32 a[2][4];
    wgmma_fragment<W>(raw, 0, a[0]);
    int now = 0, filled = Form::AHEAD; /* stages */
    for (i32 u = 0; u < s.units;) {
      float sum[Form::SUMS] = {};
      const i32 begin = u, end = min(u + s.segment_units, s.units);
      for (; u < end; u++) {
        typename W::Raw next;
        copy_async_wait<Form::AHEAD - 1>();
        wgmma_show_shared();
        __syncthreads();
#pragma unroll
        for (int step = 0; step < 4; step++) {
          wgmma_fence();
          wgmma_bf16(sum, a[step % 2], wgmma_rows_at(ring, now * Form::STAGE + step * 32), true);
          wgmma_commit();
          if (step == 0) {
            input.copy(p, shared + filled * Form::STAGE, u + Form::AHEAD); /* zeros past the last unit */
            copy_async_commit();
            W::load(next, weights, s.weight_units, min(u + 1, s.units - 1) / W::PARTS, lane);
            prefetch_l2(weights + min((u + WEIGHTS_AHEAD) * unit_bytes + fetch, last_fetch));
          }
          wgmma_wait<1>(sum);
          if (step < 3) wgmma_fragment<W>(raw, step + 1, a[(step + 1) % 2]);
          else wgmma_fragment<W>(next, 0, a[0]);
        }
        raw = next;
        now = now + 1 == Form::STAGES ? 0 : now + 1;
        filled = filled + 1 == Form::STAGES ? 0 : filled + 1;
      }
      wgmma_wait<0>(sum);
      add_segment<Form::THREADS>(totals, sum, begin == 0);
    }

    float result[Form::SUMS];
    copy_async_wait<0>();
    __syncthreads();
#pragma unroll
    for (int i = 0; i < Form::SUMS / 4; i++) {
      float4 total = totals[i * Form::THREADS + threadIdx.x];
      result[4 * i] = total.x, result[4 * i + 1] = total.y, result[4 * i + 2] = total.z, result[4 * i + 3] = total.w;
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < ROWS / 8; j++) place_accumulator<Form::OUTPUTS>(tile, result + 4 * j, warp * 16, j * 8, lane);
    __syncthreads();
    const ProductRows done = rows;
    const i32 done_tile = (i32)(id % s.output_tiles);
    id += gridDim.x;
    more = start();
    store_product_tile<Form::OUTPUTS, Form::THREADS>(p, done, done_tile, tile);
    __syncthreads();
  }
  copy_async_wait<0>();
#elif defined(__CUDA_ARCH__)
  __trap(); /* only code for sm_90a has these instructions, and only such a device is sent here */
#endif
}

template <class W, int GROUPS, int ROWS>
i32 launch_product_wgmma(const char* op, const ProductArguments& p) {
  using Form = WgmmaProduct<GROUPS, ROWS>;
  unsigned grid = product_grid(p, Form::OUTPUTS, ROWS, Form::BLOCKS);
  return launch(op, product_wgmma_kernel<W, GROUPS, ROWS>, dim3(grid), dim3(Form::THREADS), Form::SHARED, p);
}

}  // namespace psi
