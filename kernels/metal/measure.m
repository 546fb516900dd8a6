/* psi_measure: GB/s read and written by psi_copy inside the device's memory, the best of a few; the other two are 0. */
#include <time.h>

#include "launch.h"

static f64 seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (f64)t.tv_sec + 1e-9 * (f64)t.tv_nsec;
}

static i32 best_copy(void* to, const void* from, f64 half, f64* best) {
  for (int i = 0; i < 5; i++) {
    PSI_TRY(psi_synchronize());
    f64 start = seconds();
    PSI_TRY(psi_copy(to, from, half));
    PSI_TRY(psi_synchronize());
    f64 rate = 2e-9 * half / (seconds() - start);
    if (rate > *best) *best = rate;
  }
  return PSI_OK;
}

PSI_API i32 psi_measure(void* read_gb_s, void* int8_gop_s, void* f32_gflop_s, f64 bytes) {
  PSI_TRY(PSI_CHECK_POINTERS("psi_measure", read_gb_s, int8_gop_s, f32_gflop_s));
  if (!(bytes >= 8192) || bytes > 1e12) return psi_fail(PSI_INVALID, "[psi_measure] expected 8192 bytes or more to copy, got %g.", bytes);
  f64 half = (f64)((i64)(bytes / 2) / 16 * 16), best = 0;
  void *to = NULL, *from = NULL;
  PSI_TRY(psi_alloc(&to, half));
  i32 status = psi_alloc(&from, half);
  if (status == PSI_OK) status = best_copy(to, from, half, &best);
  i32 freed = psi_free(to, half);
  if (from && freed == PSI_OK) freed = psi_free(from, half);
  *(f64*)read_gb_s = best;
  *(f64*)int8_gop_s = 0;
  *(f64*)f32_gflop_s = 0;
  return status != PSI_OK ? status : freed;
}
