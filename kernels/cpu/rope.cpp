/*
 * Rotary embedding in place (RoFormer, arXiv:2104.09864): x f32 [rows, stride], head h of a row at offset + h*head_dim.
 * Pair i turns by f32(position) * inv_freq[i]: pairs (i, i + n/2) if neox, else (2i, 2i+1), n = rotary_dims; the rest
 * of the head passes through. The angle is reduced in f64; sine and cosine are then polynomials in f32, taken once per
 * row for all heads. One task per row.
 */
#include <math.h>

#include "../common/pool.h"
#include "../common/simd.h"

constexpr int MAX_PAIRS = 512;

PSI_KERNEL(rope, float* x, const i32* positions, const float* inv_freq, i64 rows, i64 stride, i64 offset, i64 heads, i64 head_dim, i64 rotary_dims, bool neox, float mscale)

namespace psi::PSI_ISA {

/*
 * cos and sin of 16 angles: x = k pi/2 + r, |r| <= pi/4, with pi/2 in parts of 33, 33 and 53 bits (fdlibm's), so that k
 * times the first is exact below FAR; then Cephes' sinf and cosf polynomials of r, exchanged and signed by k mod 4.
 */
static void cos_sin(float* c, float* s, const float* angle) {
  constexpr double FAR = 1e6, ROUND = 6755399441055744.0;  // adding 1.5 * 2^52 leaves an integer in the low bits
  float r[16];
  i32 quarter[16];
  bool far = false;
  for (int i = 0; i < 16; i++) {
    const double x = angle[i], shifted = x * 0.63661977236758134308 + ROUND, k = shifted - ROUND;
    i64 low;
    memcpy(&low, &shifted, 8);
    quarter[i] = (i32)low;
    r[i] = (float)(((x - k * 1.57079632673412561417) - k * 6.07710050630396597660e-11) - k * 2.02226624879595063154e-21);
    far = far || !(x > -FAR && x < FAR);
  }
  const vf x = load(r), z = x * x;
  vf sine = fma(set1(-1.9515295891e-4f), z, set1(8.3321608736e-3f));
  sine = fma(sine, z, set1(-1.6666654611e-1f));
  sine = fma(sine * z, x, x);
  vf cosine = fma(set1(2.443315711809948e-5f), z, set1(-1.388731625493765e-3f));
  cosine = fma(cosine, z, set1(4.166664568298827e-2f));
  cosine = fma(cosine * z, z, fma(set1(-0.5f), z, set1(1.0f)));
  const vi k = loadi(quarter), one = set1i(1), two = set1i(2);
  const vm odd = eqi(andi(k, one), one);
  const vf first = select(odd, sine, cosine), second = select(odd, cosine, sine);
  store(c, select(eqi(andi(addi(k, one), two), two), zero() - first, first));
  store(s, select(eqi(andi(k, two), two), zero() - second, second));
  if (far)
    for (int i = 0; i < 16; i++) c[i] = (float)::cos((double)angle[i]), s[i] = (float)::sin((double)angle[i]);
}

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
    for (i64 i = 0; i < pairs; i += 16) {
      const int m = (int)(pairs - i < 16 ? pairs - i : 16);
      float angle[16];
      store(angle, set1((float)positions[r]) * load_n(inv_freq + i, m));
      cos_sin(c + i, s + i, angle);
      store(c + i, load(c + i) * set1(mscale));
      store(s + i, load(s + i) * set1(mscale));
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
