/*
 * y[t] = base[t] + (sum over j of weights[t,j] * x[t*used+j], in the order of j from 0 by fused multiply-add):
 * x f32 [tokens*used, width], weights f32 [tokens, used], y and base f32 [tokens, width]; without base (psi_moe_combine)
 * the sum alone. y may be base. A thread makes 4 columns (where the width is no multiple of 4: one) of a token.
 */
#include "instructions.h"

namespace psi {

template <int V>
struct Columns { float v[V]; };
template <int V>
__device__ __forceinline__ Columns<V> load_columns(const float* p) {
  if constexpr (V == 4) {
    float4 f = *(const float4*)p;
    return {{f.x, f.y, f.z, f.w}};
  } else {
    return {{*p}};
  }
}

constexpr int COMBINE_THREADS = 128;

template <int V>
__global__ void __launch_bounds__(COMBINE_THREADS) moe_combine_kernel(float* y, const float* base, const float* x, const float* weights, i32 used, i32 width, i32 pieces) {
  let_next_start();
  const i64 token = blockIdx.x / pieces;
  const i32 column = ((blockIdx.x % pieces) * COMBINE_THREADS + threadIdx.x) * V;
  wait_for_inputs();
  if (column >= width) return;
  const float* row = x + token * used * width + column;
  const float* w = weights + token * used;
  Columns<V> sum = {}, before = {};
  if (base) before = load_columns<V>(base + token * width + column);
#pragma unroll 4
  for (i32 j = 0; j < used; j++) {
    Columns<V> part = load_columns<V>(row + (i64)j * width);
    for (int i = 0; i < V; i++) sum.v[i] = __fmaf_rn(w[j], part.v[i], sum.v[i]);
  }
  if (base)
    for (int i = 0; i < V; i++) sum.v[i] = __fadd_rn(before.v[i], sum.v[i]);
  float* out = y + token * width + column;
  if constexpr (V == 4) *(float4*)out = make_float4(sum.v[0], sum.v[1], sum.v[2], sum.v[3]);
  else *out = sum.v[0];
}

static i32 combine(const char* where, void* y, const void* base, const void* x, const void* weights, i32 tokens, i32 used, i32 width) {
  if (!y || !x || !weights || tokens < 0 || used < 1 || width < 1)
    return fail(PSI_INVALID, "[%s] expected non-null pointers and positive sizes, got %d, %d, %d.", where, tokens, used, width);
  const bool by_four = width % 4 == 0 && ((uintptr_t)y | (uintptr_t)base | (uintptr_t)x) % 16 == 0;
  const i64 pieces = PSI_DIVIDE_UP((i64)width, COMBINE_THREADS * (by_four ? 4 : 1)), blocks = tokens * pieces;
  if (blocks > INT32_MAX) return fail(PSI_INVALID, "[%s] expected at most 2^31 pieces of rows, got %d rows of %d.", where, tokens, width);
  return launch(where, by_four ? moe_combine_kernel<4> : moe_combine_kernel<1>, dim3((unsigned)blocks), dim3(COMBINE_THREADS), 0, (float*)y,
                (const float*)base, (const float*)x, (const float*)weights, used, width, (i32)pieces);
}

}  // namespace psi

PSI_API i32 psi_moe_combine(void* y, const void* x, const void* weights, i32 tokens, i32 used, i32 width) {
  return psi::combine("psi_moe_combine", y, nullptr, x, weights, tokens, used, width);
}

PSI_API i32 psi_moe_combine_add(void* y, const void* base, const void* x, const void* weights, i32 tokens, i32 used, i32 width) {
  if (!base) return psi::fail(PSI_INVALID, "[psi_moe_combine_add] expected non-null pointers.");
  return psi::combine("psi_moe_combine_add", y, base, x, weights, tokens, used, width);
}
