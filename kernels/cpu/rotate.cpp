/*
 * y = x with the first rotary_dims of each head rotated by position * inv_freq (psi_rope's rule, not in place), by the
 * opposite angle when `inverse`: the transposed map, which is its gradient. cos and sin in f64; a task is one row.
 */
#include <math.h>

#include "../common/pool.h"
#include "train.h"

PSI_KERNEL(rotate_rows, float* y, const float* x, const i32* positions, const float* inv_freq, i64 rows, i64 heads, i64 head_dim, i64 rotary_dims, bool neox, bool inverse, float mscale)

namespace psi {

template <class T>
static inline void rotate_row(T* y, const T* x, i32 position, const float* inv_freq, i64 heads, i64 head_dim, i64 rotary_dims, bool neox, bool inverse, double mscale) {
  memcpy(y, x, (size_t)(heads * head_dim) * sizeof(T));
  const i64 half = rotary_dims / 2;
  for (i64 i = 0; i < half; i++) {
    const double angle = (double)((float)position * inv_freq[i]);
    const T c = (T)(cos(angle) * mscale), s = (T)((inverse ? -sin(angle) : sin(angle)) * mscale);
    const i64 first = neox ? i : 2 * i, second = neox ? i + half : 2 * i + 1;
    for (i64 h = 0; h < heads; h++) {
      const T a = x[h * head_dim + first], b = x[h * head_dim + second];
      y[h * head_dim + first] = a * c - b * s;
      y[h * head_dim + second] = a * s + b * c;
    }
  }
}

}  // namespace psi

namespace psi::PSI_ISA {

void rotate_rows(float* y, const float* x, const i32* positions, const float* inv_freq, i64 rows, i64 heads, i64 head_dim, i64 rotary_dims, bool neox, bool inverse, float mscale) {
  const i64 width = heads * head_dim;
  parallel(rows, [&](i64 r, int) { rotate_row(y + r * width, x + r * width, positions[r], inv_freq, heads, head_dim, rotary_dims, neox, inverse, mscale); });
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
PSI_API i32 psi_rotate_ref(void* y, const void* x, const void* positions, const void* inv_freq, i32 rows, i32 heads, i32 head_dim, i32 rotary_dims, i32 neox, i32 inverse, i32 dtype, f32 mscale) {
  const i64 width = (i64)heads * head_dim;
  for (i64 r = 0; r < rows; r++)
    PSI_WITH_REAL(dtype, T, psi::rotate_row((T*)y + r * width, (const T*)x + r * width, ((const i32*)positions)[r], (const float*)inv_freq, heads, head_dim, rotary_dims, neox != 0, inverse != 0, mscale));
  return PSI_OK;
}

PSI_API i32 psi_rotate(void* y, const void* x, const void* positions, const void* inv_freq, i32 rows, i32 heads, i32 head_dim, i32 rotary_dims, i32 neox, i32 inverse, i32 dtype, f32 mscale) {
  PSI_OPENED("psi_rotate");
  if (!y || !x || !positions || !inv_freq || y == x || rows < 0 || heads < 1 || head_dim < 1 || rotary_dims < 0 || rotary_dims % 2 || rotary_dims > head_dim || !psi::is_real(dtype))
    return psi::fail(PSI_INVALID, "[psi_rotate] expected pointers, f32 or f64 and an even rotary part of the head, got rows %d, heads %d, head_dim %d, rotary_dims %d, dtype %d.", rows, heads, head_dim, rotary_dims, dtype);
  if (dtype == psi::F64) return psi_rotate_ref(y, x, positions, inv_freq, rows, heads, head_dim, rotary_dims, neox, inverse, dtype, mscale);
  PSI_RUN(rotate_rows)((float*)y, (const float*)x, (const i32*)positions, (const float*)inv_freq, rows, heads, head_dim, rotary_dims, neox != 0, inverse != 0, mscale);
  return PSI_OK;
}
#endif
