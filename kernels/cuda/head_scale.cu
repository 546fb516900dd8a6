/*
 * y = x with each head of a row times its gain (query gains of attention), and the gradient: dx = dy gain, dgain[h] += the
 * sum over rows of dy.x of the head, made per column first (columns.cuh), then over the columns of the head.
 */
#include "columns.cuh"

namespace psi {

__global__ void head_scale_kernel(Out y, In x, const float* gain, i32 heads, i32 head_dim, i64 count) {
  let_next_start();
  wait_for_inputs();
  const i64 i = flat_place();
  if (i >= count) return;
  const bool whole = i + 4 <= count;
  float4 v = some4(x, i, count - i, whole);
  if (head_dim % 4 == 0) {
    const float g = gain[i / head_dim % heads];
    v = make_float4(v.x * g, v.y * g, v.z * g, v.w * g);
  } else {
    v = make_float4(v.x * gain[i / head_dim % heads], v.y * gain[(i + 1) / head_dim % heads], v.z * gain[(i + 2) / head_dim % heads],
                    v.w * gain[(i + 3) / head_dim % heads]);
  }
  put_some4(y, i, count - i, whole, v);
}

constexpr int GAIN_THREADS = 512;

/* A block makes one head's sum. */
__global__ void __launch_bounds__(GAIN_THREADS) gain_total_kernel(float* dgain, const float* parts, i32 head_dim, i32 width, i32 chunks) {
  __shared__ float shared[32];
  let_next_start();
  wait_for_inputs();
  const i32 h = blockIdx.x;
  float sum = 0;
#pragma unroll 4
  for (i32 i = threadIdx.x; i < head_dim * chunks; i += GAIN_THREADS) sum += parts[(i64)(i / head_dim) * width + h * head_dim + i % head_dim];
  sum = block_total(sum, shared);
  if (threadIdx.x == 0) dgain[h] += sum;
}

static i32 check_heads(const char* where, bool pointers, i32 rows, i32 heads, i32 head_dim, i32 dtype) {
  PSI_REFUSE_F64(where, dtype);
  if (!pointers || rows < 0 || heads < 1 || head_dim < 1)
    return fail(PSI_INVALID, "[%s] expected pointers and positive sizes, got rows %d, heads %d, head_dim %d.", where, rows, heads, head_dim);
  return PSI_OK;
}

}  // namespace psi

PSI_API i32 psi_head_scale(void* y, const void* x, const void* gain, i32 rows, i32 heads, i32 head_dim, i32 dtype) {
  using namespace psi;
  PSI_TRY(check_heads("psi_head_scale", y && x && gain, rows, heads, head_dim, dtype));
  if (half_at(dtype, 2)) return fail(PSI_UNSUPPORTED, "[psi_head_scale] expected gains in f32, got bf16.");
  const i64 count = (i64)rows * heads * head_dim;
  return launch("psi_head_scale", head_scale_kernel, flat_grid(count), dim3(FLAT_THREADS), 0, Out{y, half_at(dtype, 0)}, In{x, half_at(dtype, 1)}, (const float*)gain, heads, head_dim, count);
}
PSI_API i32 psi_head_scale_grad(void* dx, void* dgain, const void* dy, const void* x, const void* gain, i32 rows, i32 heads, i32 head_dim, i32 dtype) {
  using namespace psi;
  PSI_TRY(check_heads("psi_head_scale_grad", dx && dy && x && gain, rows, heads, head_dim, dtype));
  if (half_at(dtype, 1) || half_at(dtype, 4)) return fail(PSI_UNSUPPORTED, "[psi_head_scale_grad] expected gains in f32, got bf16.");
  const i64 count = (i64)rows * heads * head_dim;
  const In up = {dy, half_at(dtype, 2)}, in = {x, half_at(dtype, 3)};
  PSI_TRY(launch("psi_head_scale_grad", head_scale_kernel, flat_grid(count), dim3(FLAT_THREADS), 0, Out{dx, half_at(dtype, 0)}, up, (const float*)gain, heads, head_dim, count));
  if (!dgain) return PSI_OK;
  i32 chunks = 0;
  PSI_TRY(column_parts_of("psi_head_scale_grad", ProductTerms{up, in, heads * head_dim}, nullptr, rows, heads * head_dim, 1, chunks));
  return launch("psi_head_scale_grad", gain_total_kernel, dim3(heads), dim3(GAIN_THREADS), 0, (float*)dgain, (const float*)column_parts, head_dim, heads * head_dim, chunks);
}
