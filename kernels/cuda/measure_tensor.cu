/*
 * psi_measure_tensor: bf16 products with f32 sums that the tensor cores do in a second, operands in registers and shared
 * memory only, as the median of some runs after a first: wgmma where the device has it, else mma.sync. What products of
 * many rows are compared with.
 */
#include <algorithm>

#include "wgmma.h"

namespace psi {

constexpr int TENSOR_THREADS = 128, TENSOR_BLOCKS = 4; /* of a multiprocessor */
constexpr int TENSOR_COLUMNS = 128;                    /* of the accumulators of a warpgroup */
constexpr int TENSOR_STEPS = 4;                        /* of 16, in a round */
#if defined(PSI_STANDIN)
constexpr int TENSOR_ROUNDS = 1;
#else
constexpr int TENSOR_ROUNDS = 4000;
#endif

__global__ void __launch_bounds__(TENSOR_THREADS) tensor_kernel(float* sink, int rounds) {
  PSI_DYNAMIC_SHARED(memory);
  let_next_start();
  wait_for_inputs();
  /* bf16 values near 1 with changing low bits: products of zeros would draw less power and run at a higher clock */
  u32* words = (u32*)memory;
  for (int i = threadIdx.x; i < TENSOR_COLUMNS * 32; i += TENSOR_THREADS) words[i] = 0x3f803f80u | ((u32)i * 0x9e3779b9u >> 7 & 0x007f007fu);
  u32 a[TENSOR_STEPS][4];
  for (int s = 0; s < TENSOR_STEPS; s++)
    for (int i = 0; i < 4; i++) a[s][i] = 0x3f80bf80u | ((threadIdx.x * 16 + s * 4 + i) * 0x9e3779b9u >> 7 & 0x007f007fu);
  float d[TENSOR_COLUMNS / 2] = {};
#if defined(PSI_WGMMA)
  wgmma_show_shared();
  __syncthreads();
  const u64 rows = wgmma_rows(memory);
  for (int r = 0; r < rounds; r++) {
    wgmma_fence();
#pragma unroll
    for (int s = 0; s < TENSOR_STEPS; s++) wgmma_bf16(d, a[s], wgmma_rows_at(rows, 32 * s), true);
    wgmma_commit();
    wgmma_wait<0>(d);
  }
#else
  __syncthreads();
  u32 b[2] = {words[threadIdx.x], words[threadIdx.x + 128]};
  for (int r = 0; r < rounds; r++)
#pragma unroll
    for (int s = 0; s < TENSOR_STEPS; s++)
#pragma unroll
      for (int j = 0; j < TENSOR_COLUMNS / 8; j++) mma_bf16(d + 4 * j, a[s], b);
#endif
  float sum = 0.0f;
  for (int i = 0; i < TENSOR_COLUMNS / 2; i++) sum += d[i];
  sink[blockIdx.x * TENSOR_THREADS + threadIdx.x] = sum;
}

namespace {

i32 checked(cudaError_t error) { return error == cudaSuccess ? PSI_OK : cuda_failed("psi_measure_tensor", error); }

constexpr int RUNS = 7;

i32 time_products(float* sink, unsigned blocks, cudaEvent_t start, cudaEvent_t end, float* ms) {
  for (int run = -1; run < RUNS; run++) {
    PSI_TRY(checked(cudaEventRecord(start, stream)));
    PSI_TRY(launch("psi_measure_tensor", tensor_kernel, dim3(blocks), dim3(TENSOR_THREADS), (size_t)TENSOR_COLUMNS * 128, sink, TENSOR_ROUNDS));
    PSI_TRY(checked(cudaEventRecord(end, stream)));
    PSI_TRY(checked(cudaEventSynchronize(end)));
    if (run >= 0) PSI_TRY(checked(cudaEventElapsedTime(ms + run, start, end)));
  }
  return PSI_OK;
}

}  // namespace

}  // namespace psi

using namespace psi;

PSI_API i32 psi_measure_tensor(void* bf16_tflop_s) {
  if (!bf16_tflop_s) return fail(PSI_INVALID, "[psi_measure_tensor] expected a place for the result, got null.");
  if (!device.multiprocessors) return no_device("psi_measure_tensor");
  const unsigned blocks = (unsigned)device.multiprocessors * TENSOR_BLOCKS;
  void* sink = nullptr;
  PSI_TRY(checked(cudaMalloc(&sink, (size_t)blocks * TENSOR_THREADS * sizeof(float))));
  cudaEvent_t start = nullptr, end = nullptr;
  float ms[RUNS] = {};
  i32 status = checked(cudaEventCreateWithFlags(&start, cudaEventDefault));
  if (status == PSI_OK) status = checked(cudaEventCreateWithFlags(&end, cudaEventDefault));
  if (status == PSI_OK) status = time_products((float*)sink, blocks, start, end, ms);
  if (end) cudaEventDestroy(end);
  if (start) cudaEventDestroy(start);
  cudaFree(sink);
  PSI_TRY(status);
  std::sort(ms, ms + RUNS);
  const f64 flops = 2.0 * 64 * TENSOR_COLUMNS * 16 * TENSOR_STEPS * TENSOR_ROUNDS * blocks;
  *(f64*)bf16_tflop_s = flops / ms[RUNS / 2] * 1e-9;
  return PSI_OK;
}
