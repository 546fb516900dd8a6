/*
 * mix: y = alpha wa a + beta wb b per column (wa, wb or b may be absent), its gradients, and multiply: y = a b. Four
 * elements a thread; the sums over rows of dwa and dwb by columns.cuh.
 */
#include "columns.cuh"

namespace psi {

__device__ __forceinline__ float4 scaled_columns(float4 v, const float* w, i64 i, i32 width, float scale) {
  v = make_float4(scale * v.x, scale * v.y, scale * v.z, scale * v.w);
  if (!w) return v;
  const i32 c = (i32)(i % width);
  return make_float4(v.x * w[c], v.y * w[(c + 1) % width], v.z * w[(c + 2) % width], v.w * w[(c + 3) % width]);
}

__global__ void mix_kernel(Out y, In a, In b, const float* wa, const float* wb, i32 width, i64 count, float alpha, float beta) {
  let_next_start();
  wait_for_inputs();
  const i64 i = flat_place();
  if (i >= count) return;
  const bool whole = i + 4 <= count;
  const Four first = load_some4(a, i, count - i, whole);
  Four second = {};
  if (b) second = load_some4(b, i, count - i, whole);
  float4 v = scaled_columns(floats(a, first), wa, i, width, alpha);
  if (b) {
    const float4 u = scaled_columns(floats(b, second), wb, i, width, beta);
    v = make_float4(v.x + u.x, v.y + u.y, v.z + u.z, v.w + u.w);
  }
  put_some4(y, i, count - i, whole, v);
}

/* Both gradients in one pass over dy. */
__global__ void mix_grad_kernel(Out da, Out db, In dy, const float* wa, const float* wb, i32 width, i64 count, float alpha, float beta) {
  let_next_start();
  wait_for_inputs();
  const i64 i = flat_place();
  if (i >= count) return;
  const bool whole = i + 4 <= count;
  const float4 up = some4(dy, i, count - i, whole);
  if (da) put_some4(da, i, count - i, whole, scaled_columns(up, wa, i, width, alpha));
  if (db) put_some4(db, i, count - i, whole, scaled_columns(up, wb, i, width, beta));
}

/* Both gradients and the terms of both scales' in one pass; pointers that are null are not wanted. */
struct MixGradTerms {
  static constexpr int SUMS = 2;
  Out da, db;
  In dy, a, b; /* a and b null where their scale's gradient is not wanted */
  const float *wa, *wb;
  i32 width;
  float alpha, beta;
  struct Loaded {
    Four dy, a, b;
  };
  __device__ __forceinline__ Loaded load(i64 row, i32 column, i64 valid, bool whole) const {
    const i64 at = row * width + column;
    Loaded l = {};
    l.dy = load_some4(dy, at, valid, whole);
    if (a) l.a = load_some4(a, at, valid, whole);
    if (b) l.b = load_some4(b, at, valid, whole);
    return l;
  }
  static __device__ __forceinline__ float4 scaled(float4 v, const float* w, i32 column, i64 valid, bool whole, float factor) {
    v = make_float4(factor * v.x, factor * v.y, factor * v.z, factor * v.w);
    if (!w) return v;
    const float4 f = some4({w, false}, column, valid, whole);
    return make_float4(v.x * f.x, v.y * f.y, v.z * f.z, v.w * f.w);
  }
  __device__ __forceinline__ void add(float4* total, const Loaded& l, i64 row, i32 column, i64 valid, bool whole) const {
    const i64 at = row * width + column;
    const float4 up = floats(dy, l.dy);
    if (da) put_some4(da, at, valid, whole, scaled(up, wa, column, valid, whole, alpha));
    if (db) put_some4(db, at, valid, whole, scaled(up, wb, column, valid, whole, beta));
    if (a) add_products(total[0], up, floats(a, l.a));
    if (b) add_products(total[1], up, floats(b, l.b));
  }
};

__global__ void multiply_kernel(Out y, In a, In b, i64 count) {
  let_next_start();
  wait_for_inputs();
  const i64 i = flat_place();
  if (i >= count) return;
  const bool whole = i + 4 <= count;
  const float4 p = some4(a, i, count - i, whole), q = some4(b, i, count - i, whole);
  put_some4(y, i, count - i, whole, make_float4(p.x * q.x, p.y * q.y, p.z * q.z, p.w * q.w));
}

static i32 check_mix(const char* where, bool pointers, i32 width, i32 dtype, f64 count) {
  PSI_REFUSE_F64(where, dtype);
  if (!pointers || width < 1 || !(count >= 0) || (i64)count % width)
    return fail(PSI_INVALID, "[%s] expected pointers and whole rows, got width %d, count %.0f.", where, width, count);
  return PSI_OK;
}

}  // namespace psi

PSI_API i32 psi_mix(void* y, const void* a, const void* b, const void* wa, const void* wb, i32 width, i32 dtype, f64 count, f64 alpha, f64 beta) {
  using namespace psi;
  PSI_TRY(check_mix("psi_mix", y && a && (b || !wb), width, dtype, count));
  if (half_at(dtype, 3) || half_at(dtype, 4)) return fail(PSI_UNSUPPORTED, "[psi_mix] expected scales of columns in f32, got bf16.");
  return launch("psi_mix", mix_kernel, flat_grid((i64)count), dim3(FLAT_THREADS), 0, Out{y, half_at(dtype, 0)}, In{a, half_at(dtype, 1)}, In{b, half_at(dtype, 2)},
                (const float*)wa, (const float*)wb, width, (i64)count, (float)alpha, (float)beta);
}
PSI_API i32 psi_mix_grad(void* da, void* db, void* dwa, void* dwb, const void* dy, const void* a, const void* b, const void* wa, const void* wb, i32 width, i32 dtype, f64 count, f64 alpha, f64 beta) {
  using namespace psi;
  PSI_TRY(check_mix("psi_mix_grad", dy && (a || !dwa) && (b || !dwb), width, dtype, count));
  for (int place : {2, 3, 7, 8})
    if (half_at(dtype, place)) return fail(PSI_UNSUPPORTED, "[psi_mix_grad] expected scales of columns in f32, got bf16.");
  const In up = {dy, half_at(dtype, 4)};
  const Out outs[] = {{da, half_at(dtype, 0)}, {db, half_at(dtype, 1)}};
  if (!dwa && !dwb) {
    if (!da && !db) return PSI_OK;
    return launch("psi_mix_grad", mix_grad_kernel, flat_grid((i64)count), dim3(FLAT_THREADS), 0, outs[0], outs[1], up, (const float*)wa, (const float*)wb, width, (i64)count,
                  (float)alpha, (float)beta);
  }
  const MixGradTerms terms = {outs[0], outs[1], up, {dwa ? a : nullptr, half_at(dtype, 5)}, {dwb ? b : nullptr, half_at(dtype, 6)}, (const float*)wa, (const float*)wb, width, (float)alpha, (float)beta};
  i32 chunks = 0;
  PSI_TRY(column_parts_of("psi_mix_grad", terms, nullptr, (i64)count / width, width, 1, chunks));
  if (dwa) PSI_TRY(add_column_parts("psi_mix_grad", (float*)dwa, width, 1, 2, 0, chunks, (float)alpha));
  return dwb ? add_column_parts("psi_mix_grad", (float*)dwb, width, 1, 2, 1, chunks, (float)beta) : PSI_OK;
}
PSI_API i32 psi_multiply(void* y, const void* a, const void* b, i32 dtype, f64 count) {
  using namespace psi;
  PSI_TRY(check_mix("psi_multiply", y && a && b, 1, dtype, count));
  return launch("psi_multiply", multiply_kernel, flat_grid((i64)count), dim3(FLAT_THREADS), 0, Out{y, half_at(dtype, 0)}, In{a, half_at(dtype, 1)}, In{b, half_at(dtype, 2)}, (i64)count);
}
