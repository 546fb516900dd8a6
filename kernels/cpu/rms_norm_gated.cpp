/*
 * y = x / sqrt(mean(x^2) + eps) * w * silu(gate) over heads: x, y f32 [rows, heads*width], w f32 [width], gate f32 rows of
 * gate_stride, its heads from gate_offset. y may be x. Sums: f32 in 16 lanes, one fixed tree. Tasks: pieces of 8 heads.
 */
#include <math.h>

#include "../common/pool.h"
#include "../common/simd.h"

PSI_KERNEL(rms_norm_gated, float* y, const float* x, const float* gate, const float* w, i64 rows, i64 heads, i64 width, i64 gate_stride, i64 gate_offset, float eps)

namespace psi::PSI_ISA {

static void norm_head(float* y, const float* x, const float* gate, const float* w, i64 n, float eps) {
  vf squares = zero();
  for (i64 k = 0; k < n; k += 16) {
    const vf v = load_n(x + k, (int)(n - k < 16 ? n - k : 16));
    squares = fma(v, v, squares);
  }
  const vf scale = set1(1.0f / sqrtf(hsum(squares) / (float)n + eps)), one = set1(1.0f);
  for (i64 k = 0; k < n; k += 16) {
    const int m = (int)(n - k < 16 ? n - k : 16);
    const vf g = load_n(gate + k, m);
    store_n(y + k, load_n(x + k, m) * scale * load_n(w + k, m) * (g / (one + exp(zero() - g))), m);
  }
}

void rms_norm_gated(float* y, const float* x, const float* gate, const float* w, i64 rows, i64 heads, i64 width, i64 gate_stride, i64 gate_offset, float eps) {
  constexpr i64 PIECE = 8;
  const i64 all = rows * heads;
  parallel((all + PIECE - 1) / PIECE, [&](i64 task, int) {
    const i64 end = task * PIECE + PIECE < all ? task * PIECE + PIECE : all;
    for (i64 i = task * PIECE; i < end; i++)
      norm_head(y + i * width, x + i * width, gate + i / heads * gate_stride + gate_offset + i % heads * width, w, width, eps);
  });
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
static i32 check_norm_gated(const char* where, const void* y, const void* x, const void* gate, const void* w, i32 rows, i32 heads, i32 width, i32 gate_stride, i32 gate_offset) {
  if (!y || !x || !gate || !w) return psi::fail(PSI_INVALID, "[%s] expected non-null pointers.", where);
  if (rows < 0 || heads < 1 || width < 1 || gate_offset < 0 || gate_offset + (i64)heads * width > gate_stride)
    return psi::fail(PSI_INVALID, "[%s] expected the gate inside its rows, got rows %d, heads %d, width %d, stride %d, offset %d.", where, rows, heads, width, gate_stride, gate_offset);
  return PSI_OK;
}

PSI_API i32 psi_rms_norm_gated(void* y, const void* x, const void* gate, const void* w, i32 rows, i32 heads, i32 width, i32 gate_stride, i32 gate_offset, f32 eps) {
  PSI_OPENED("psi_rms_norm_gated");
  i32 status = check_norm_gated("psi_rms_norm_gated", y, x, gate, w, rows, heads, width, gate_stride, gate_offset);
  if (status != PSI_OK) return status;
  PSI_RUN(rms_norm_gated)((float*)y, (const float*)x, (const float*)gate, (const float*)w, rows, heads, width, gate_stride, gate_offset, eps);
  return PSI_OK;
}

PSI_API i32 psi_rms_norm_gated_ref(void* y, const void* x, const void* gate, const void* w, i32 rows, i32 heads, i32 width, i32 gate_stride, i32 gate_offset, f32 eps) {
  i32 status = check_norm_gated("psi_rms_norm_gated_ref", y, x, gate, w, rows, heads, width, gate_stride, gate_offset);
  if (status != PSI_OK) return status;
  for (i64 r = 0; r < rows; r++)
    for (i64 h = 0; h < heads; h++) {
      const float* in = (const float*)x + (r * heads + h) * width;
      const float* by = (const float*)gate + r * gate_stride + gate_offset + h * width;
      double sum = 0;
      for (i64 k = 0; k < width; k++) sum += (double)in[k] * in[k];
      const double scale = 1 / sqrt(sum / width + eps);
      for (i64 k = 0; k < width; k++)
        ((float*)y)[(r * heads + h) * width + k] = (float)(in[k] * scale * ((const float*)w)[k] * (by[k] / (1 + exp(-(double)by[k]))));
    }
  return PSI_OK;
}
#endif
