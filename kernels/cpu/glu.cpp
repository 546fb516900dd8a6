/*
 * y = act(gate) * up: gate rows of gate_stride, up rows of up_stride, y [rows, width], all f32. Kinds: 0 silu; 1 gelu in
 * its tanh form; 2 GPT-OSS: g = min(gate, limit), u = clamp(up, -limit, limit), g * sigmoid(alpha g) * (u + 1).
 * Tasks: pieces of 2048 elements of a row.
 */
#include <math.h>

#include "../common/pool.h"
#include "../common/simd.h"

PSI_KERNEL(glu, float* y, const float* gate, const float* up, i64 rows, i64 width, i64 gate_stride, i64 up_stride, i32 kind, float alpha, float limit)

namespace psi::PSI_ISA {

PSI_INLINE vf sigmoid(vf x) { return set1(1.0f) / (set1(1.0f) + exp(zero() - x)); }
/* 0.5 x (1 + tanh u) = x sigmoid(2u), which keeps its digits where tanh is near -1 */
PSI_INLINE vf gelu(vf x) {
  vf inner = set1(0.7978845608028654f) * fma(set1(0.044715f) * x * x, x, x);
  return x * sigmoid(inner + inner);
}

void glu(float* y, const float* gate, const float* up, i64 rows, i64 width, i64 gate_stride, i64 up_stride, i32 kind, float alpha, float limit) {
  constexpr i64 PIECE = 2048;
  const i64 pieces = (width + PIECE - 1) / PIECE;
  parallel(rows * pieces, [&](i64 task, int) {
    const i64 r = task / pieces, begin = task % pieces * PIECE;
    const i64 end = begin + PIECE < width ? begin + PIECE : width;
    for (i64 k = begin; k < end; k += 16) {
      int m = (int)(end - k < 16 ? end - k : 16);
      vf g = load_n(gate + r * gate_stride + k, m), u = load_n(up + r * up_stride + k, m);
      vf out;
      if (kind == 0) out = g * sigmoid(g) * u;
      else if (kind == 1) out = gelu(g) * u;
      else {
        g = min(g, set1(limit));
        u = max(set1(-limit), min(u, set1(limit)));
        out = g * sigmoid(set1(alpha) * g) * (u + set1(1.0f));
      }
      store_n(y + r * width + k, out, m);
    }
  });
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
PSI_API i32 psi_glu(void* y, const void* gate, const void* up, i32 rows, i32 width, i32 gate_stride, i32 up_stride, i32 kind, f32 alpha, f32 limit) {
  PSI_OPENED("psi_glu");
  if (!y || !gate || !up) return psi::fail(PSI_INVALID, "[psi_glu] expected non-null pointers.");
  if (rows < 0 || width < 1 || gate_stride < width || up_stride < width)
    return psi::fail(PSI_INVALID, "[psi_glu] expected strides of at least the width, got width %d, strides %d and %d.", width, gate_stride, up_stride);
  if (kind < 0 || kind > 2) return psi::fail(PSI_INVALID, "[psi_glu] expected kind 0, 1 or 2, got %d.", kind);
  PSI_RUN(glu)((float*)y, (const float*)gate, (const float*)up, rows, width, gate_stride, up_stride, kind, alpha, limit);
  return PSI_OK;
}

template <class T>
static i32 reference(T* y, const T* gate, const T* up, i32 rows, i32 width, i32 gate_stride, i32 up_stride, i32 kind, f32 alpha, f32 limit) {
  for (i64 r = 0; r < rows; r++)
    for (i64 k = 0; k < width; k++) {
      double g = gate[r * gate_stride + k], u = up[r * up_stride + k], out;
      if (kind == 0) out = g / (1 + exp(-g)) * u;
      else if (kind == 1) out = 0.5 * g * (1 + tanh(sqrt(2 / M_PI) * (g + 0.044715 * g * g * g))) * u;
      else {
        g = g < limit ? g : limit;
        u = u < -limit ? -limit : u > limit ? limit : u;
        out = g / (1 + exp(-alpha * g)) * (u + 1);
      }
      y[r * width + k] = (T)out;
    }
  return PSI_OK;
}

PSI_API i32 psi_glu_ref(void* y, const void* gate, const void* up, i32 rows, i32 width, i32 gate_stride, i32 up_stride, i32 kind, f32 alpha, f32 limit) {
  return reference((float*)y, (const float*)gate, (const float*)up, rows, width, gate_stride, up_stride, kind, alpha, limit);
}
PSI_API i32 psi_glu_ref_f64(void* y, const void* gate, const void* up, i32 rows, i32 width, i32 gate_stride, i32 up_stride, i32 kind, f32 alpha, f32 limit) {
  return reference((double*)y, (const double*)gate, (const double*)up, rows, width, gate_stride, up_stride, kind, alpha, limit);
}
#endif
