/*
 * Attention of sequences over themselves, forward and backward; formulas as in kernels/cpu/causal_attention.cpp. The kernels
 * here are those of f32 tensors: a warp makes one row (or, of dk and dv, one key) of one head, its lanes 32 keys (or rows) at
 * a time for the scores, then elements of the head. bf16 tensors go to causal_attention_wgmma.cu and _mma.cu. No sum depends on anything
 * but its row: dq is made by rows, dk and dv by keys, each over the other side ascending.
 */
#include "causal_attention.h"

namespace psi {

constexpr int PLAIN_WARPS = 4, PLAIN_DIM = 256, PLAIN_PARTS = PLAIN_DIM / 32;

__device__ __forceinline__ float dot_of(const float* a, const float* b, i32 n) {
  float sum = 0;
  for (i32 e = 0; e < n; e++) sum = fmaf(a[e], b[e], sum);
  return sum;
}

__global__ void __launch_bounds__(32 * PLAIN_WARPS) causal_plain_kernel(const __grid_constant__ CausalAttention c) {
  let_next_start();
  wait_for_inputs();
  const i32 i = blockIdx.x * PLAIN_WARPS + threadIdx.x / 32, h = blockIdx.y, s = blockIdx.z, E = c.head_dim;
  const int lane = threadIdx.x % 32;
  if (i >= c.length) return;
  const i64 row = (i64)s * c.length + i, key0 = (i64)s * c.length * c.narrow() + (i64)(h / (c.heads / c.kv_heads)) * E;
  const float *q = (const float*)c.q + row * c.wide() + (i64)h * E, *k = (const float*)c.k + key0, *v = (const float*)c.v + key0;
  float most = c.sinks ? c.sinks[h] : -INFINITY, sum = c.sinks ? 1.0f : 0.0f, acc[PLAIN_PARTS] = {};
  for (i32 j0 = c.seen_from(s, i); j0 <= i; j0 += 32) {
    const i32 j = j0 + lane;
    const float z = j <= i ? c.score(dot_of(q, k + j * c.narrow(), E)) : -INFINITY;
    const float next = fmaxf(most, warp_max(z)), shrink = expf(most - next), p = expf(z - next);
    sum = sum * shrink + warp_sum(p);
    most = next;
    for (int e = 0; e < PLAIN_PARTS; e++) acc[e] *= shrink;
    for (int l = 0; l < 32; l++) {
      const float w = __shfl_sync(~0u, p, l);
      if (j0 + l > i) continue;
      for (int e = 0; e < PLAIN_PARTS; e++)
        if (lane + 32 * e < E) acc[e] = fmaf(w, v[(j0 + l) * c.narrow() + lane + 32 * e], acc[e]);
    }
  }
  for (int e = 0; e < PLAIN_PARTS; e++)
    if (lane + 32 * e < E) {
      const i64 at = row * c.wide() + (i64)h * E + lane + 32 * e;
      ((float*)c.y)[at] = acc[e] / sum;
      if (c.rest) ((float*)c.rest)[at] = 0; /* nothing is rounded */
    }
  if (lane == 0) c.lse[row * c.heads + h] = most + logf(sum);
}

__global__ void __launch_bounds__(32 * PLAIN_WARPS) causal_plain_rows_kernel(const __grid_constant__ CausalAttention c) {
  let_next_start();
  wait_for_inputs();
  const i32 i = blockIdx.x * PLAIN_WARPS + threadIdx.x / 32, h = blockIdx.y, s = blockIdx.z, E = c.head_dim;
  const int lane = threadIdx.x % 32;
  if (i >= c.length) return;
  const i64 row = (i64)s * c.length + i, at = row * c.wide() + (i64)h * E, key0 = (i64)s * c.length * c.narrow() + (i64)(h / (c.heads / c.kv_heads)) * E;
  const float *q = (const float*)c.q + at, *dy = (const float*)c.dy + at, *k = (const float*)c.k + key0, *v = (const float*)c.v + key0;
  const float lse = c.lse[row * c.heads + h], delta = c.facts_of(s, h)[i].y;
  float acc[PLAIN_PARTS] = {};
  for (i32 j0 = c.seen_from(s, i); j0 <= i; j0 += 32) {
    const i32 j = j0 + lane;
    float ds = 0;
    if (j <= i) {
      const float z = c.score(dot_of(q, k + j * c.narrow(), E));
      ds = expf(z - lse) * (dot_of(dy, v + j * c.narrow(), E) - delta) * c.slope(z);
    }
    for (int l = 0; l < 32; l++) {
      const float w = __shfl_sync(~0u, ds, l);
      if (j0 + l > i) continue;
      for (int e = 0; e < PLAIN_PARTS; e++)
        if (lane + 32 * e < E) acc[e] = fmaf(w, k[(j0 + l) * c.narrow() + lane + 32 * e], acc[e]);
    }
  }
  for (int e = 0; e < PLAIN_PARTS; e++)
    if (lane + 32 * e < E) ((float*)c.dq)[at + lane + 32 * e] = acc[e];
}

__global__ void __launch_bounds__(32 * PLAIN_WARPS) causal_plain_keys_kernel(const __grid_constant__ CausalAttention c) {
  let_next_start();
  wait_for_inputs();
  const i32 j = blockIdx.x * PLAIN_WARPS + threadIdx.x / 32, kv = blockIdx.y, s = blockIdx.z, E = c.head_dim, group = c.heads / c.kv_heads;
  const int lane = threadIdx.x % 32;
  if (j >= c.length) return;
  const i64 at = ((i64)s * c.length + j) * c.narrow() + (i64)kv * E;
  const float *k = (const float*)c.k + at, *v = (const float*)c.v + at;
  float dk[PLAIN_PARTS] = {}, dv[PLAIN_PARTS] = {};
  const i32 end = c.window > 0 && j + c.window < c.length ? j + c.window : c.length;
  for (i32 h = kv * group; h < (kv + 1) * group; h++)
    for (i32 i0 = j; i0 < end; i0 += 32) {
      const i32 i = i0 + lane;
      const i64 row = (i64)s * c.length + i, of = row * c.wide() + (i64)h * E;
      float p = 0, ds = 0;
      if (i < end && c.seen_from(s, i) <= j) {
        const float z = c.score(dot_of((const float*)c.q + of, k, E));
        p = expf(z - c.lse[row * c.heads + h]);
        ds = p * (dot_of((const float*)c.dy + of, v, E) - c.facts_of(s, h)[i].y) * c.slope(z);
      }
      for (int l = 0; l < 32; l++) {
        const float weight = __shfl_sync(~0u, p, l), slope = __shfl_sync(~0u, ds, l);
        if (i0 + l >= end) continue;
        const i64 from = ((i64)s * c.length + i0 + l) * c.wide() + (i64)h * E;
        for (int e = 0; e < PLAIN_PARTS; e++)
          if (lane + 32 * e < E) {
            dv[e] = fmaf(weight, ((const float*)c.dy)[from + lane + 32 * e], dv[e]);
            dk[e] = fmaf(slope, ((const float*)c.q)[from + lane + 32 * e], dk[e]);
          }
      }
    }
  for (int e = 0; e < PLAIN_PARTS; e++)
    if (lane + 32 * e < E) ((float*)c.dk)[at + lane + 32 * e] = dk[e], ((float*)c.dv)[at + lane + 32 * e] = dv[e];
}

constexpr int FACT_LANES = 8, FACT_THREADS = 256; /* lanes of a row of one head */

/* facts of all rows of all heads */
__global__ void __launch_bounds__(FACT_THREADS) causal_facts_kernel(const __grid_constant__ CausalAttention c, In dy, In y, In rest) {
  let_next_start();
  wait_for_inputs();
  const i32 h = blockIdx.y, s = blockIdx.z, r = (i32)(blockIdx.x * FACT_THREADS + threadIdx.x) / FACT_LANES, lane = threadIdx.x % FACT_LANES;
  const i64 row = (i64)s * c.length + r, of = row * c.wide() + (i64)h * c.head_dim;
  float sum = 0;
  if (r < c.length) {
    if (c.head_dim % 4 == 0) {
      for (i32 e = 4 * lane; e < c.head_dim; e += 4 * FACT_LANES) {
        const float4 a = dy.at4(of + e);
        float4 b = y.at4(of + e);
        if (rest) {
          const float4 r = rest.at4(of + e);
          b = make_float4(b.x + r.x, b.y + r.y, b.z + r.z, b.w + r.w);
        }
        sum += (a.x * b.x + a.y * b.y) + (a.z * b.z + a.w * b.w);
      }
    } else {
      for (i32 e = lane; e < c.head_dim; e += FACT_LANES) sum += dy.at(of + e) * (rest ? y.at(of + e) + rest.at(of + e) : y.at(of + e));
    }
  }
  for (int mask = FACT_LANES / 2; mask > 0; mask >>= 1) sum += __shfl_xor_sync(~0u, sum, mask);
  if (lane == 0 && r < c.facts_rows())
    c.facts[((i64)s * c.heads + h) * c.facts_rows() + r] = r < c.length ? make_float2(c.lse[row * c.heads + h] * LOG2_E, sum) : make_float2(0, 0);
}

constexpr int SINK_THREADS = 1024;

/* dsinks[h] -= sum over rows of exp(sink - lse) delta, a block each */
__global__ void __launch_bounds__(SINK_THREADS) causal_sinks_kernel(float* dsinks, const __grid_constant__ CausalAttention c) {
  __shared__ float shared[32];
  let_next_start();
  wait_for_inputs();
  const i32 h = blockIdx.x;
  float sum = 0;
  for (i32 s = 0; s < c.sequences; s++) {
    const float2* facts = c.facts_of(s, h);
    for (i32 r = threadIdx.x; r < c.length; r += SINK_THREADS) sum += exp2_fast(c.sinks[h] * LOG2_E - facts[r].x) * facts[r].y;
  }
  sum = block_total(sum, shared);
  if (threadIdx.x == 0) dsinks[h] -= sum;
}

static i32 check_attention(const char* where, bool pointers, const CausalAttention& c, i32 dtype, bool half, f64 softcap) {
  PSI_REFUSE_F64(where, dtype);
  const i32 most = half ? 128 : PLAIN_DIM;
  if (!pointers || c.sequences < 0 || c.length < 1 || c.heads < 1 || c.kv_heads < 1 || c.heads % c.kv_heads || c.head_dim < 1 || c.window < 0 || !(softcap >= 0))
    return fail(PSI_INVALID, "[%s] expected pointers, heads in multiples of the key heads, and a window and soft-cap of at least 0, got sequences %d, length %d, heads %d, kv_heads %d, head_dim %d, window %d.", where, c.sequences, c.length, c.heads, c.kv_heads, c.head_dim, c.window);
  if (c.head_dim > most || c.sequences > 65535 || c.heads > 65535)
    return fail(PSI_UNSUPPORTED, "[%s] expected heads of at most %d elements in %s and at most 65535 sequences, got %d and %d.", where, most, half ? "bf16" : "f32", c.head_dim, c.sequences);
  return PSI_OK;
}

/* All of them bf16, or none; -1: some are. */
static i32 all_half(i32 dtype, const int* places, int count) {
  int set = 0;
  for (int i = 0; i < count; i++) set += half_at(dtype, places[i]);
  return set == 0 ? 0 : set == count ? 1 : -1;
}

}  // namespace psi

PSI_API i32 psi_causal_attention(void* y, void* lse, void* rest, const void* q, const void* k, const void* v, const void* sinks, const void* first, i32 sequences, i32 length, i32 heads, i32 kv_heads, i32 head_dim, i32 window, i32 dtype, f64 scale, f64 softcap) {
  using namespace psi;
  const char* op = "psi_causal_attention";
  CausalAttention c = {q, k, v, (const float*)sinks, (const i32*)first, y, (float*)lse, rest, sequences, length, heads, kv_heads, head_dim, window, (float)scale, (float)softcap, nullptr, nullptr, nullptr, nullptr, false, nullptr};
  const int places[] = {0, 3, 4, 5};
  const i32 half = all_half(dtype, places, 4);
  PSI_TRY(check_attention(op, y && lse && q && k && v, c, dtype, half == 1, softcap));
  if (half < 0 || half_at(dtype, 1) || half_at(dtype, 6) || (rest && half_at(dtype, 2) != half_at(dtype, 0))) return fail(PSI_UNSUPPORTED, "[%s] expected q, k, v, y and its rest of one type and lse and sinks in f32.", op);
  if (half) return causal_fits_wgmma(c) ? causal_forward_wgmma(c) : causal_forward_half(c);
  return launch(op, causal_plain_kernel, dim3(PSI_DIVIDE_UP(length, PLAIN_WARPS), heads, sequences), dim3(32 * PLAIN_WARPS), 0, c);
}

PSI_API i32 psi_causal_attention_grad(void* dq, void* dk, void* dv, void* dsinks, const void* dy, const void* q, const void* k, const void* v, const void* y, const void* lse, const void* rest, const void* sinks, const void* first, void* scratch, i32 sequences, i32 length, i32 heads, i32 kv_heads, i32 head_dim, i32 window, i32 dtype, f64 scale, f64 softcap, f64 scratch_bytes) {
  using namespace psi;
  const char* op = "psi_causal_attention_grad";
  CausalAttention c = {q, k, v, (const float*)sinks, (const i32*)first, (void*)y, (float*)lse, (void*)rest, sequences, length, heads, kv_heads, head_dim, window, (float)scale, (float)softcap, dy, dq, dk, dv, false, (float2*)scratch};
  const int places[] = {2, 4, 5, 6, 7, 8};
  const i32 half = all_half(dtype, places, 6);
  const i32 narrow = half_at(dtype, 0) + half_at(dtype, 1);
  c.wide_gradients = half == 1 && narrow == 0;
  PSI_TRY(check_attention(op, dq && dk && dv && dy && q && k && v && y && lse && (sinks || !dsinks), c, dtype, half == 1, softcap));
  if (half < 0 || half_at(dtype, 3) || half_at(dtype, 9) || half_at(dtype, 11) || (rest && half_at(dtype, 10) != half_at(dtype, 8)) || narrow == 1 || (half == 0 && narrow == 2))
    return fail(PSI_UNSUPPORTED, "[%s] expected q, k, v, y, its rest and their gradients of one type, but dq and dk in f32 or in that, and lse and sinks in f32.", op);
  const f64 facts = 8.0 * sequences * heads * c.facts_rows();
  if (sequences > 0 && (!scratch || scratch_bytes < facts)) return fail(PSI_INVALID, "[%s] expected %.0f bytes of scratch, got %.0f.", op, facts, scratch_bytes);
  PSI_TRY(launch(op, causal_facts_kernel, dim3(PSI_DIVIDE_UP(c.facts_rows() * FACT_LANES, FACT_THREADS), heads, sequences), dim3(FACT_THREADS), 0, c, In{dy, half == 1}, In{y, half == 1}, In{rest, half == 1}));
  if (half) {
    PSI_TRY(causal_fits_wgmma(c) ? causal_backward_wgmma(c) : causal_backward_half(c));
  } else {
    const dim3 block(32 * PLAIN_WARPS);
    const unsigned blocks = PSI_DIVIDE_UP(length, PLAIN_WARPS);
    PSI_TRY(launch(op, causal_plain_keys_kernel, dim3(blocks, kv_heads, sequences), block, 0, c));
    PSI_TRY(launch(op, causal_plain_rows_kernel, dim3(blocks, heads, sequences), block, 0, c));
  }
  if (!dsinks) return PSI_OK;
  return launch(op, causal_sinks_kernel, dim3(heads), dim3(SINK_THREADS), 0, (float*)dsinks, c);
}
