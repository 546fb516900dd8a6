/* Runs a few ops of a kernel library at every level it has and compares them with the library's own references; one line
   each, "ok" or "FAILED". For release.test.ts, under an emulator. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vector>

#include "../../ffi/psionic.h"

typedef std::vector<float> Floats;
static int failures = 0;
static unsigned state = 1;

static float next() {
  state = state * 1664525u + 1013904223u;
  return (float)(int)(state >> 8) / 8388608.0f - 1.0f;
}
static Floats numbers(size_t count, float scale) {
  Floats v(count);
  for (float& x : v) x = next() * scale;
  return v;
}

/* Squared error over squared size of what was expected. */
static void report(const char* level, const char* name, int status, const Floats& got, const Floats& want, double bound) {
  double error = 0, size = 0;
  for (size_t i = 0; i < want.size(); i++) {
    error += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
    size += (double)want[i] * want[i];
  }
  const bool ok = status == 0 && error <= bound * size; /* false for NaN too */
  failures += !ok;
  printf("%s %s %s %.3g%s%s\n", ok ? "ok" : "FAILED", level, name, error / size, status ? " " : "", status ? psi_last_error() : "");
}

static void small_ops(const char* level) {
  const int rows = 3, width = 333;
  const Floats x = numbers(rows * width, 4), w = numbers(width, 2);
  Floats got(rows * width), want(rows * width);
  int s = psi_rms_norm(got.data(), x.data(), w.data(), rows, width, 0, 1, width, 1e-5f);
  psi_rms_norm_ref(want.data(), x.data(), w.data(), rows, width, 0, 1, width, 1e-5f);
  report(level, "rms_norm", s, got, want, 1e-10);
  s = psi_softcap(got.data(), x.data(), rows * width, 3);
  psi_softcap_ref(want.data(), x.data(), rows * width, 3);
  report(level, "softcap", s, got, want, 1e-10);
  s = psi_log_sum_exp(got.data(), x.data(), rows, width);
  psi_log_sum_exp_ref(want.data(), x.data(), rows, width);
  got.resize(rows);
  want.resize(rows);
  report(level, "log_sum_exp", s, got, want, 1e-10);
  int ids[2][rows];
  s = psi_argmax(ids[0], x.data(), rows, width);
  psi_argmax_ref(ids[1], x.data(), rows, width);
  report(level, "argmax", s || memcmp(ids[0], ids[1], sizeof ids[0]), {1}, {1}, 0);
}

static void product(const char* level, const char* name, int type, double bound) {
  const int rows = 5, outputs = 37, columns = 512;
  const Floats x = numbers(rows * columns, 1), weights = numbers(outputs * columns, 0.1f), bias = numbers(outputs, 1);
  std::vector<char> file(outputs * columns * 4), scratch(1 << 20);
  double bytes = 0;
  int s = type == 0 ? (memcpy(file.data(), weights.data(), file.size()), 0) : psi_quantize(file.data(), weights.data(), outputs, columns, type);
  s = s ? s : psi_packed_bytes(&bytes, outputs, columns, type);
  void* packed = aligned_alloc(64, ((size_t)bytes + 63) & ~(size_t)63);
  s = s ? s : psi_pack(packed, file.data(), outputs, columns, type);
  Floats got(rows * outputs), want(rows * outputs);
  s = s ? s : psi_matmul(got.data(), x.data(), packed, bias.data(), scratch.data(), rows, outputs, columns, type | PSI_PACKED, (double)scratch.size());
  s = s ? s : psi_matmul_ref(want.data(), x.data(), file.data(), bias.data(), nullptr, rows, outputs, columns, type, 0);
  report(level, name, s, got, want, bound);
  free(packed);
}

int main() {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  for (const char* level : {"plain", "neon"}) {
    const int s = psi_open(level, 2);
    report(level, "open", s, {1}, {1}, 0);
    if (s) continue;
    small_ops(level);
    product(level, "matmul F32", 0, 1e-9);
    product(level, "matmul F16", 1, 1e-9);
    product(level, "matmul Q4_0", 2, 1e-3);
    product(level, "matmul Q8_0", 8, 1e-3);
    product(level, "matmul Q4_K", 12, 1e-3);
    product(level, "matmul Q6_K", 14, 1e-3);
    product(level, "matmul MXFP4", 39, 1e-3);
    psi_close();
  }
  return failures ? 1 : 0;
}
