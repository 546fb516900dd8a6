/*
 * Rotary embedding in place (RoFormer, arXiv:2104.09864): x f32 [rows, stride], head h of a row at offset + h*head_dim.
 * Pair i turns by f32(position) * inv_freq[i]: pairs (i, i + n/2) if neox, else (2i, 2i+1), n = rotary_dims; the rest
 * of the head passes through. Sine and cosine are taken in f64, once per row for all heads. One task per row.
 */
#include <math.h>

#include "../common/pool.h"
#include "../common/simd.h"

constexpr int MAX_PAIRS = 512;

PSI_KERNEL(rope, float* x, const i32* positions, const float* inv_freq, i64 rows, i64 stride, i64 offset, i64 heads, i64 head_dim, i64 rotary_dims, bool neox, float mscale)

namespace psi::PSI_ISA {

static void turn_halves(float* head, const float* c, const float* s, i64 pairs) {
  for (i64 i = 0; i < pairs; i += 16) {
    int m = (int)(pairs - i < 16 ? pairs - i : 16);
    vf a = load_n(head + i, m), b = load_n(head + pairs + i, m);
    vf cosine = load_n(c + i, m), sine = load_n(s + i, m);
    store_n(head + i, a * cosine - b * sine, m);
    store_n(head + pairs + i, a * sine + b * cosine, m);
  }
}

static void turn_neighbours(float* head, const float* c, const float* s, i64 pairs) {
  for (i64 i = 0; i < pairs; i++) {
    float a = head[2 * i], b = head[2 * i + 1];
    head[2 * i] = a * c[i] - b * s[i];
    head[2 * i + 1] = a * s[i] + b * c[i];
  }
}

void rope(float* x, const i32* positions, const float* inv_freq, i64 rows, i64 stride, i64 offset, i64 heads, i64 head_dim, i64 rotary_dims, bool neox, float mscale) {
  const i64 pairs = rotary_dims / 2;
  parallel(rows, [&](i64 r, int) {
    float c[MAX_PAIRS], s[MAX_PAIRS];
    for (i64 i = 0; i < pairs; i++) {
      double angle = (double)((float)positions[r] * inv_freq[i]);
      c[i] = (float)(::cos(angle) * mscale);
      s[i] = (float)(::sin(angle) * mscale);
    }
    for (i64 h = 0; h < heads; h++) {
      float* head = x + r * stride + offset + h * head_dim;
      if (neox) turn_halves(head, c, s, pairs);
      else turn_neighbours(head, c, s, pairs);
    }
  });
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
static i32 check_rope(const void* x, const void* positions, const void* inv_freq, i32 rows, i32 stride, i32 offset, i32 heads, i32 head_dim, i32 rotary_dims) {
  if (!x || !positions || !inv_freq) return psi::fail(PSI_INVALID, "[psi_rope] expected non-null pointers.");
  if (rows < 0 || heads < 1 || head_dim < 2 || offset < 0 || (i64)offset + (i64)heads * head_dim > stride)
    return psi::fail(PSI_INVALID, "[psi_rope] expected heads inside the rows, got stride %d, offset %d, heads %d, head_dim %d.", stride, offset, heads, head_dim);
  if (rotary_dims < 2 || rotary_dims % 2 || rotary_dims > head_dim || rotary_dims / 2 > MAX_PAIRS)
    return psi::fail(PSI_INVALID, "[psi_rope] expected an even number of rotary dimensions up to %d, got %d.", head_dim < 2 * MAX_PAIRS ? head_dim : 2 * MAX_PAIRS, rotary_dims);
  return PSI_OK;
}

PSI_API i32 psi_rope(void* x, const void* positions, const void* inv_freq, i32 rows, i32 stride, i32 offset, i32 heads, i32 head_dim, i32 rotary_dims, i32 neox, f32 mscale) {
  PSI_OPENED("psi_rope");
  i32 status = check_rope(x, positions, inv_freq, rows, stride, offset, heads, head_dim, rotary_dims);
  if (status != PSI_OK) return status;
  PSI_RUN(rope)((float*)x, (const i32*)positions, (const float*)inv_freq, rows, stride, offset, heads, head_dim, rotary_dims, neox != 0, mscale);
  return PSI_OK;
}

template <class T>
static i32 reference(T* x, const i32* positions, const float* inv_freq, i32 rows, i32 stride, i32 offset, i32 heads, i32 head_dim, i32 rotary_dims, i32 neox, f32 mscale) {
  const i64 pairs = rotary_dims / 2;
  for (i64 r = 0; r < rows; r++)
    for (i64 h = 0; h < heads; h++)
      for (i64 i = 0; i < pairs; i++) {
        T* head = x + r * stride + offset + h * head_dim;
        T* a = head + (neox ? i : 2 * i);
        T* b = head + (neox ? i + pairs : 2 * i + 1);
        double angle = (double)((float)positions[r] * inv_freq[i]);
        double c = cos(angle) * mscale, s = sin(angle) * mscale, u = *a, v = *b;
        *a = (T)(u * c - v * s);
        *b = (T)(u * s + v * c);
      }
  return PSI_OK;
}

PSI_API i32 psi_rope_ref(void* x, const void* positions, const void* inv_freq, i32 rows, i32 stride, i32 offset, i32 heads, i32 head_dim, i32 rotary_dims, i32 neox, f32 mscale) {
  return reference((float*)x, (const i32*)positions, (const float*)inv_freq, rows, stride, offset, heads, head_dim, rotary_dims, neox, mscale);
}
PSI_API i32 psi_rope_ref_f64(void* x, const void* positions, const void* inv_freq, i32 rows, i32 stride, i32 offset, i32 heads, i32 head_dim, i32 rotary_dims, i32 neox, f32 mscale) {
  return reference((double*)x, (const i32*)positions, (const float*)inv_freq, rows, stride, offset, heads, head_dim, rotary_dims, neox, mscale);
}
#endif
