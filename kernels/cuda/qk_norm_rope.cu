/*
 * y = rope(n) gain for n = x * scale, scale = 1/sqrt(mean(x^2) + eps) of each head, pairs being (i, i + half); and its gradient:
 * with g = gain * (rope's transpose of dy), dx = scale (g - n mean(g n)), dgain[h] += the sum over rows of dy . rope(n), which
 * is that of g n over the gain before it was applied.
 *
 * A block makes a chunk of rows: cosines and sines of CACHED rows at a time in shared memory, then eight lanes a head, a lane
 * four pairs at a time. A lane's head is the same in all of the block's rows, so that the gains' sums stay in registers; chunks
 * are as many as the shape says, and their sums are added in order.
 */
#include "columns.h"
#include "train.cuh"

namespace psi {

constexpr int QK_THREADS = 256, HEAD_LANES = 8, HEADS_AT_ONCE = QK_THREADS / HEAD_LANES, CACHED = 16, MOST_HALF = 128;
constexpr i64 MOST_CHUNKS = 4096;

struct QkHeads {
  const i32* positions;
  const float *inv_freq, *gain;
  i64 rows;
  i32 heads, half;
  bool inverse;
  float eps;
};

/* The sum over the eight lanes of a head. */
__device__ __forceinline__ float head_sum(float v) {
#pragma unroll
  for (int mask = HEAD_LANES / 2; mask > 0; mask >>= 1) v += __shfl_xor_sync(~0u, v, mask);
  return v;
}

__device__ __forceinline__ float dot4(float4 a, float4 b) { return (a.x * b.x + a.y * b.y) + (a.z * b.z + a.w * b.w); }
__device__ __forceinline__ float4 times(float4 a, float f) { return make_float4(a.x * f, a.y * f, a.z * f, a.w * f); }
__device__ __forceinline__ float4 products(float4 a, float4 b) { return make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w); }
__device__ __forceinline__ float4 minus(float4 a, float4 b) { return make_float4(a.x - b.x, a.y - b.y, a.z - b.z, a.w - b.w); }
__device__ __forceinline__ float4 plus(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }

/* PARTS: fours of pairs that a lane has of a head. GRAD: x is joined by dy, y is dx, and parts [chunk][heads] get the gains' sums. */
template <int PARTS, bool GRAD>
__global__ void __launch_bounds__(QK_THREADS) qk_norm_rope_kernel(const __grid_constant__ QkHeads q, Out y, In dy, In x, float* parts) {
  __shared__ __align__(16) float cosines[CACHED][32 * PARTS], sines[CACHED][32 * PARTS];
  __shared__ float shared[HEADS_AT_ONCE];
  let_next_start();
  wait_for_inputs();
  const int lane = threadIdx.x % HEAD_LANES, unit = threadIdx.x / HEAD_LANES;
  const i32 rows_at_once = HEADS_AT_ONCE / q.heads, head = unit % q.heads, own = unit / q.heads;
  const i64 size = PSI_DIVIDE_UP(q.rows, gridDim.x), begin = blockIdx.x * size, end = begin + size < q.rows ? begin + size : q.rows;
  const float gain = q.gain ? q.gain[head] : 1.0f;
  const i32 width = 2 * q.half;
  float gained = 0; /* of the lane's row and head, over its rows */
  for (i64 first = begin; first < end; first += CACHED) {
    const i32 count = end - first < CACHED ? (i32)(end - first) : CACHED;
    __syncthreads();
    for (i32 i = threadIdx.x; i < count * q.half; i += QK_THREADS) {
      float s, c;
      sincosf((float)q.positions[first + i / q.half] * q.inv_freq[i % q.half], &s, &c);
      cosines[i / q.half][i % q.half] = c;
      sines[i / q.half][i % q.half] = q.inverse ? -s : s;
    }
    __syncthreads();
    for (i32 r0 = 0; r0 < count; r0 += rows_at_once) {
      const bool valid = own < rows_at_once && r0 + own < count; /* all lanes of a warp stay for its sums */
      const i32 r = valid ? r0 + own : 0;
      const i64 at = ((first + r) * q.heads + head) * width;
      Four loaded[PARTS][4] = {};
#pragma unroll
      for (int p = 0; p < PARTS; p++) {
        const i32 k = 4 * lane + 32 * p;
        if (k >= q.half) continue;
        loaded[p][0] = load4(x, at + k), loaded[p][1] = load4(x, at + q.half + k);
        if (GRAD) loaded[p][2] = load4(dy, at + k), loaded[p][3] = load4(dy, at + q.half + k);
      }
      float squares = 0, crossed = 0;
      float4 low[PARTS] = {}, high[PARTS] = {}, grad_low[PARTS] = {}, grad_high[PARTS] = {};
#pragma unroll
      for (int p = 0; p < PARTS; p++) {
        const i32 k = 4 * lane + 32 * p;
        if (k >= q.half) continue;
        low[p] = floats(x, loaded[p][0]), high[p] = floats(x, loaded[p][1]);
        squares += dot4(low[p], low[p]) + dot4(high[p], high[p]);
        if (!GRAD) continue;
        const float4 c = *(const float4*)&cosines[r][k], s = *(const float4*)&sines[r][k];
        const float4 a = floats(dy, loaded[p][2]), b = floats(dy, loaded[p][3]);
        grad_low[p] = plus(products(a, c), products(b, s));
        grad_high[p] = minus(products(b, c), products(a, s));
        crossed += dot4(grad_low[p], low[p]) + dot4(grad_high[p], high[p]);
      }
      const float scale = 1.0f / sqrtf(head_sum(squares) / (float)width + q.eps);
      float shift = 0; /* of n in g - n mean(g n) */
      if (GRAD) {
        crossed = head_sum(crossed) * scale;
        if (valid) gained += crossed;
        shift = gain * crossed / (float)width;
      }
#pragma unroll
      for (int p = 0; p < PARTS; p++) {
        const i32 k = 4 * lane + 32 * p;
        if (k >= q.half || !valid) continue;
        const float4 a = times(low[p], scale), b = times(high[p], scale);
        if (GRAD) {
          y.put4(at + k, times(minus(times(grad_low[p], gain), times(a, shift)), scale));
          y.put4(at + q.half + k, times(minus(times(grad_high[p], gain), times(b, shift)), scale));
          continue;
        }
        const float4 c = *(const float4*)&cosines[r][k], s = *(const float4*)&sines[r][k];
        y.put4(at + k, times(minus(products(a, c), products(b, s)), gain));
        y.put4(at + q.half + k, times(plus(products(a, s), products(b, c)), gain));
      }
    }
  }
  if (!GRAD || !parts) return;
  if (lane == 0) shared[unit] = own < rows_at_once ? gained : 0.0f;
  __syncthreads();
  if ((int)threadIdx.x >= q.heads) return;
  float total = 0;
  for (i32 i = 0; i < rows_at_once; i++) total += shared[i * q.heads + threadIdx.x];
  parts[(i64)blockIdx.x * q.heads + threadIdx.x] = total;
}

/* A block adds one head's parts. */
__global__ void __launch_bounds__(QK_THREADS) qk_gain_kernel(float* dgain, const float* parts, i32 heads, i32 chunks) {
  __shared__ float shared[32];
  let_next_start();
  wait_for_inputs();
  float sum = 0;
#pragma unroll 4
  for (i32 i = threadIdx.x; i < chunks; i += QK_THREADS) sum += parts[(i64)i * heads + blockIdx.x];
  sum = block_total(sum, shared);
  if (threadIdx.x == 0) dgain[blockIdx.x] += sum;
}

template <bool GRAD>
static i32 start_qk(const char* where, const QkHeads& q, Out y, In dy, In x, float* parts, i32 chunks) {
  const i32 fours = PSI_DIVIDE_UP(q.half, 32);
  auto kernel = fours == 1 ? qk_norm_rope_kernel<1, GRAD> : fours == 2 ? qk_norm_rope_kernel<2, GRAD> : qk_norm_rope_kernel<4, GRAD>;
  return launch(where, kernel, dim3(chunks), dim3(QK_THREADS), 0, q, y, dy, x, parts);
}

static i32 chunks_of(i64 rows) {
  const i64 wanted = PSI_DIVIDE_UP(rows, CACHED);
  return (i32)(wanted < MOST_CHUNKS ? wanted : MOST_CHUNKS);
}

static i32 check_qk(const char* where, bool pointers, i32 rows, i32 heads, i32 head_dim, f64 eps) {
  if (!pointers || rows < 0 || heads < 1 || heads > HEADS_AT_ONCE || head_dim < 8 || head_dim % 8 || head_dim > 2 * MOST_HALF || !(eps >= 0))
    return fail(PSI_INVALID, "[%s] expected aligned pointers, 1 to %d heads of a multiple of 8 up to %d elements and eps of at least 0, got rows %d, heads %d, head_dim %d, eps %g.", where,
                HEADS_AT_ONCE, 2 * MOST_HALF, rows, heads, head_dim, eps);
  return PSI_OK;
}

static bool aligned(const void* a, const void* b, const void* c) { return (((uintptr_t)a | (uintptr_t)b | (uintptr_t)c) & 15) == 0; }

}  // namespace psi

PSI_API i32 psi_qk_norm_rope(void* y, const void* x, const void* positions, const void* inv_freq, const void* gain, i32 rows, i32 heads, i32 head_dim, i32 inverse, i32 dtype, f64 eps) {
  using namespace psi;
  PSI_REFUSE_F64("psi_qk_norm_rope", dtype);
  PSI_TRY(check_qk("psi_qk_norm_rope", y && x && positions && inv_freq && aligned(y, x, nullptr), rows, heads, head_dim, eps));
  const QkHeads q = {(const i32*)positions, (const float*)inv_freq, (const float*)gain, rows, heads, head_dim / 2, inverse != 0, (float)eps};
  return start_qk<false>("psi_qk_norm_rope", q, Out{y, half_at(dtype, 0)}, In{nullptr, false}, In{x, half_at(dtype, 1)}, nullptr, chunks_of(rows));
}
PSI_API i32 psi_qk_norm_rope_grad(void* dx, void* dgain, const void* dy, const void* x, const void* positions, const void* inv_freq, const void* gain, i32 rows, i32 heads, i32 head_dim, i32 inverse, i32 dtype, f64 eps) {
  using namespace psi;
  PSI_REFUSE_F64("psi_qk_norm_rope_grad", dtype);
  PSI_TRY(check_qk("psi_qk_norm_rope_grad", dx && dy && x && positions && inv_freq && aligned(dx, dy, x), rows, heads, head_dim, eps));
  if (!column_parts) return no_device("psi_qk_norm_rope_grad");
  const QkHeads q = {(const i32*)positions, (const float*)inv_freq, (const float*)gain, rows, heads, head_dim / 2, inverse != 0, (float)eps};
  const i32 chunks = chunks_of(rows);
  PSI_TRY(start_qk<true>("psi_qk_norm_rope_grad", q, Out{dx, half_at(dtype, 0)}, In{dy, half_at(dtype, 2)}, In{x, half_at(dtype, 3)}, dgain ? column_parts : nullptr, chunks));
  if (!dgain || rows == 0) return PSI_OK;
  return launch("psi_qk_norm_rope_grad", qk_gain_kernel, dim3(heads), dim3(QK_THREADS), 0, (float*)dgain, (const float*)column_parts, heads, chunks);
}
