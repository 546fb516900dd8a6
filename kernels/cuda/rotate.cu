/*
 * y = x with the first rotary_dims of each head rotated by position * inv_freq (psi_rope's rule, not in place), by the
 * opposite angle when `inverse`: the transposed map, which is its gradient. A block takes some rows: their cosines and sines
 * are made once per row, then all heads pass, a thread being a pair of elements or one that is only copied.
 */
#include "train.cuh"

namespace psi {

constexpr int ROTATE_THREADS = 256, ROTATE_ROWS = 4, MOST_ROTARY = 512;

__global__ void __launch_bounds__(ROTATE_THREADS) rotate_kernel(Out y, In x, const i32* positions, const float* inv_freq, i32 rows, i32 heads, i32 head_dim, i32 half, bool neox, bool inverse, float mscale) {
  __shared__ __align__(16) float cosines[ROTATE_ROWS][MOST_ROTARY / 2], sines[ROTATE_ROWS][MOST_ROTARY / 2];
  let_next_start();
  wait_for_inputs();
  const i32 row0 = blockIdx.x * ROTATE_ROWS, count = min(ROTATE_ROWS, rows - row0);
  for (i32 i = threadIdx.x; i < count * half; i += ROTATE_THREADS) {
    const float angle = (float)positions[row0 + i / half] * inv_freq[i % half];
    float s, c;
    sincosf(angle, &s, &c);
    cosines[i / half][i % half] = c * mscale;
    sines[i / half][i % half] = (inverse ? -s : s) * mscale;
  }
  __syncthreads();
  if (neox && half % 4 == 0 && head_dim == 2 * half && (((uintptr_t)x.p | (uintptr_t)y.p) & 15) == 0) { /* four pairs a thread */
    const i32 fours = half / 4;
    for (i32 i = threadIdx.x; i < count * heads * fours; i += ROTATE_THREADS) {
      const i32 unit = i % fours * 4, head = i / fours, r = head / heads; /* heads of all rows */
      const i64 first = ((i64)row0 * heads + head) * head_dim + unit;
      const float4 a = x.at4(first), b = x.at4(first + half), c = *(const float4*)&cosines[r][unit], s = *(const float4*)&sines[r][unit];
      y.put4(first, make_float4(a.x * c.x - b.x * s.x, a.y * c.y - b.y * s.y, a.z * c.z - b.z * s.z, a.w * c.w - b.w * s.w));
      y.put4(first + half, make_float4(a.x * s.x + b.x * c.x, a.y * s.y + b.y * c.y, a.z * s.z + b.z * c.z, a.w * s.w + b.w * c.w));
    }
    return;
  }
  const i32 rest = head_dim - 2 * half, units = half + rest; /* of a head: pairs, then single elements */
  for (i32 i = threadIdx.x; i < count * heads * units; i += ROTATE_THREADS) {
    const i32 unit = i % units, head = i / units % heads, r = i / units / heads;
    const i64 at = ((i64)(row0 + r) * heads + head) * head_dim;
    if (unit >= half) {
      const i64 single = at + 2 * half + unit - half;
      y.put(single, x.at(single));
      continue;
    }
    const i64 first = at + (neox ? unit : 2 * unit), second = neox ? first + half : first + 1;
    const float a = x.at(first), b = x.at(second), c = cosines[r][unit], s = sines[r][unit];
    y.put(first, a * c - b * s);
    y.put(second, a * s + b * c);
  }
}

}  // namespace psi

PSI_API i32 psi_rotate(void* y, const void* x, const void* positions, const void* inv_freq, i32 rows, i32 heads, i32 head_dim, i32 rotary_dims, i32 neox, i32 inverse, i32 dtype, f32 mscale) {
  using namespace psi;
  PSI_REFUSE_F64("psi_rotate", dtype);
  if (!y || !x || !positions || !inv_freq || y == x || rows < 0 || heads < 1 || head_dim < 1 || rotary_dims < 0 || rotary_dims % 2 || rotary_dims > head_dim || rotary_dims > MOST_ROTARY || half_at(dtype, 3))
    return fail(PSI_INVALID, "[psi_rotate] expected pointers, frequencies in f32 and an even rotary part of the head of at most %d, got rows %d, heads %d, head_dim %d, rotary_dims %d, dtype %d.", MOST_ROTARY, rows, heads, head_dim, rotary_dims, dtype);
  return launch("psi_rotate", rotate_kernel, dim3(PSI_DIVIDE_UP(rows, ROTATE_ROWS)), dim3(ROTATE_THREADS), 0, Out{y, half_at(dtype, 0)}, In{x, half_at(dtype, 1)},
                (const i32*)positions, (const float*)inv_freq, rows, heads, head_dim, rotary_dims / 2, neox != 0, inverse != 0, mscale);
}
