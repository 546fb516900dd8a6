/*
 * Rows to experts and back. expert_rows copies a token's row to each of its slots, in the order of expert_order;
 * expert_combine sums a token's slots by weight. Both gradients, each place with one writer. Four elements a thread, or a
 * warp for each slot where a dot product is wanted. Places outside the slots read zeros and are not written.
 */
#include "train.cuh"

namespace psi {

/* `units` of four elements of a row */
struct ExpertShape {
  i32 tokens, used, width, units;
};

__global__ void expert_gather_kernel(Out y, In x, const i32* slots, ExpertShape s) {
  let_next_start();
  wait_for_inputs();
  const i64 i = (i64)blockIdx.x * FLAT_THREADS + threadIdx.x, row = i / s.units, column = i % s.units * 4;
  if (row >= (i64)s.tokens * s.used) return;
  const bool whole = s.width % 4 == 0;
  const i32 token = slots[row] / s.used;
  const float4 v = (u32)token < (u32)s.tokens ? some4(x, (i64)token * s.width + column, s.width - column, whole) : make_float4(0, 0, 0, 0);
  put_some4(y, row * s.width + column, s.width - column, whole, v);
}

/* weights absent: 1 */
__global__ void expert_sum_kernel(Out y, In x, const float* weights, const i32* places, ExpertShape s) {
  let_next_start();
  wait_for_inputs();
  const i64 i = (i64)blockIdx.x * FLAT_THREADS + threadIdx.x, token = i / s.units, column = i % s.units * 4;
  if (token >= s.tokens) return;
  const bool whole = s.width % 4 == 0;
  float4 sum = make_float4(0, 0, 0, 0);
  for (i32 j = 0; j < s.used; j++) {
    const i64 place = places[token * s.used + j];
    if (place < 0 || place >= (i64)s.tokens * s.used) continue;
    const float w = weights ? weights[token * s.used + j] : 1.0f;
    const float4 v = some4(x, place * s.width + column, s.width - column, whole);
    sum = make_float4(sum.x + w * v.x, sum.y + w * v.y, sum.z + w * v.z, sum.w + w * v.w);
  }
  put_some4(y, token * s.width + column, s.width - column, whole, sum);
}

/* A warp makes one slot of one token. */
__global__ void expert_combine_grad_kernel(Out dx, float* dweights, In dy, In x, const float* weights, const i32* places, ExpertShape s) {
  let_next_start();
  wait_for_inputs();
  const i64 slot = (i64)blockIdx.x * (FLAT_THREADS / 32) + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (slot >= (i64)s.tokens * s.used) return;
  const i64 token = slot / s.used, place = places[slot];
  if (place < 0 || place >= (i64)s.tokens * s.used) return;
  const bool whole = s.width % 4 == 0;
  const float w = weights[slot];
  float dot = 0;
  for (i32 k = 4 * lane; k < s.width; k += 128) {
    const float4 d = some4(dy, token * s.width + k, s.width - k, whole), v = some4(x, place * s.width + k, s.width - k, whole);
    put_some4(dx, place * s.width + k, s.width - k, whole, make_float4(w * d.x, w * d.y, w * d.z, w * d.w));
    dot += (d.x * v.x + d.y * v.y) + (d.z * v.z + d.w * v.w);
  }
  dot = warp_sum(dot);
  if (lane == 0) dweights[slot] = dot;
}

static i32 check_rows(const char* where, bool pointers, i32 tokens, i32 used, i32 width, i32 dtype, ExpertShape& s) {
  PSI_REFUSE_F64(where, dtype);
  if (!pointers || tokens < 0 || used < 1 || width < 1)
    return fail(PSI_INVALID, "[%s] expected pointers and positive sizes, got tokens %d, used %d, width %d.", where, tokens, used, width);
  s = {tokens, used, width, PSI_DIVIDE_UP(width, 4)};
  return PSI_OK;
}
static dim3 rows_grid(const ExpertShape& s, i64 rows) { return dim3((unsigned)PSI_DIVIDE_UP(rows * s.units, FLAT_THREADS)); }

}  // namespace psi

PSI_API i32 psi_expert_rows(void* y, const void* x, const void* slots, i32 tokens, i32 used, i32 width, i32 dtype) {
  using namespace psi;
  ExpertShape s = {};
  PSI_TRY(check_rows("psi_expert_rows", y && x && slots, tokens, used, width, dtype, s));
  return launch("psi_expert_rows", expert_gather_kernel, rows_grid(s, (i64)tokens * used), dim3(FLAT_THREADS), 0, Out{y, half_at(dtype, 0)}, In{x, half_at(dtype, 1)}, (const i32*)slots, s);
}
PSI_API i32 psi_expert_rows_grad(void* dx, const void* dy, const void* places, i32 tokens, i32 used, i32 width, i32 dtype) {
  using namespace psi;
  ExpertShape s = {};
  PSI_TRY(check_rows("psi_expert_rows_grad", dx && dy && places, tokens, used, width, dtype, s));
  return launch("psi_expert_rows_grad", expert_sum_kernel, rows_grid(s, tokens), dim3(FLAT_THREADS), 0, Out{dx, half_at(dtype, 0)}, In{dy, half_at(dtype, 1)}, (const float*)nullptr, (const i32*)places, s);
}
PSI_API i32 psi_expert_combine(void* y, const void* x, const void* weights, const void* places, i32 tokens, i32 used, i32 width, i32 dtype) {
  using namespace psi;
  ExpertShape s = {};
  PSI_TRY(check_rows("psi_expert_combine", y && x && weights && places, tokens, used, width, dtype, s));
  if (half_at(dtype, 2)) return fail(PSI_UNSUPPORTED, "[psi_expert_combine] expected weights in f32, got bf16.");
  return launch("psi_expert_combine", expert_sum_kernel, rows_grid(s, tokens), dim3(FLAT_THREADS), 0, Out{y, half_at(dtype, 0)}, In{x, half_at(dtype, 1)}, (const float*)weights, (const i32*)places, s);
}
PSI_API i32 psi_expert_combine_grad(void* dx, void* dweights, const void* dy, const void* x, const void* weights, const void* places, i32 tokens, i32 used, i32 width, i32 dtype) {
  using namespace psi;
  ExpertShape s = {};
  PSI_TRY(check_rows("psi_expert_combine_grad", dx && dweights && dy && x && weights && places, tokens, used, width, dtype, s));
  if (half_at(dtype, 1) || half_at(dtype, 4)) return fail(PSI_UNSUPPORTED, "[psi_expert_combine_grad] expected weights in f32, got bf16.");
  const i64 slots = (i64)tokens * used;
  return launch("psi_expert_combine_grad", expert_combine_grad_kernel, dim3((unsigned)PSI_DIVIDE_UP(slots, FLAT_THREADS / 32)), dim3(FLAT_THREADS), 0, Out{dx, half_at(dtype, 0)},
                (float*)dweights, In{dy, half_at(dtype, 2)}, In{x, half_at(dtype, 3)}, (const float*)weights, (const i32*)places, s);
}
