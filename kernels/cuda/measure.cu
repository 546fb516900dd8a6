/*
 * psi_measure: GB/s that a copy inside the device's memory reaches, bytes read and written together, as the median of some
 * runs after a first. Arithmetic is not measured: the other two outputs are 0.
 */
#include <algorithm>

#include "launch.h"

namespace psi {

namespace {

constexpr int RUNS = 9;
constexpr f64 LEAST = 1 << 20;

i32 checked(cudaError_t error) { return error == cudaSuccess ? PSI_OK : cuda_failed("psi_measure", error); }

/* Milliseconds of each run. */
i32 time_copies(void* destination, const void* source, size_t bytes, cudaEvent_t start, cudaEvent_t end, float* ms) {
  for (int run = -1; run < RUNS; run++) {
    PSI_TRY(checked(cudaEventRecord(start, stream)));
    PSI_TRY(checked(cudaMemcpyAsync(destination, source, bytes, cudaMemcpyDeviceToDevice, stream)));
    PSI_TRY(checked(cudaEventRecord(end, stream)));
    PSI_TRY(checked(cudaEventSynchronize(end)));
    if (run >= 0) PSI_TRY(checked(cudaEventElapsedTime(ms + run, start, end)));
  }
  return PSI_OK;
}

/* Two buffers of at most half of `bytes` each; halved until they fit beside what is there. */
i32 measure(f64 bytes, f64* gb_s) {
  void* buffers = nullptr;
  f64 each = bytes / 2;
  while (cudaMalloc(&buffers, 2 * (size_t)each) != cudaSuccess) {
    cudaGetLastError();
    each /= 2;
    if (each < LEAST) return fail(PSI_NO_MEMORY, "[psi_measure] expected %.0f bytes of device memory, got none.", 2 * LEAST);
  }
  cudaEvent_t start = nullptr, end = nullptr;
  float ms[RUNS] = {};
  i32 status = checked(cudaEventCreateWithFlags(&start, cudaEventDefault));
  if (status == PSI_OK) status = checked(cudaEventCreateWithFlags(&end, cudaEventDefault));
  if (status == PSI_OK) status = checked(cudaMemsetAsync(buffers, 0, 2 * (size_t)each, stream));
  if (status == PSI_OK) status = time_copies((char*)buffers + (size_t)each, buffers, (size_t)each, start, end, ms);
  if (end) cudaEventDestroy(end);
  if (start) cudaEventDestroy(start);
  cudaFree(buffers);
  if (status != PSI_OK) return status;
  std::sort(ms, ms + RUNS);
  *gb_s = 2 * each / ms[RUNS / 2] * 1e-6;
  return PSI_OK;
}

}  // namespace

}  // namespace psi

using namespace psi;

PSI_API i32 psi_measure(void* copy_gb_s, void* int8_gop_s, void* f32_gflop_s, f64 bytes) {
  if (!copy_gb_s || !int8_gop_s || !f32_gflop_s) return fail(PSI_INVALID, "[psi_measure] expected non-null pointers.");
  if (!(bytes >= 2 * LEAST) || bytes > 1e13) return fail(PSI_INVALID, "[psi_measure] expected at least %.0f bytes, got %g.", 2 * LEAST, bytes);
  if (!stream) return no_device("psi_measure");
  *(f64*)int8_gop_s = 0;
  *(f64*)f32_gflop_s = 0;
  return measure(bytes, (f64*)copy_gb_s);
}
