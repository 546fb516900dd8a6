/* Rotary embedding in place: x f32 [rows, stride], head h of a row at offset + h*head_dim; dimensions beyond rotary_dims pass. */
#include "rotation.cuh"

namespace psi {

/* A thread per (row, `each` heads, pair). */
__global__ void __launch_bounds__(256) rope_kernel(Rotation r, float* x, const i32* positions, i64 stride, i32 heads, i32 head_dim, i32 each, i64 threads) {
  let_next_start();
  const i64 i = min((i64)blockIdx.x * blockDim.x + threadIdx.x, threads - 1);
  const i32 pair = (i32)(i % r.pairs), sets = PSI_DIVIDE_UP(heads, each), set = (i32)(i / r.pairs % sets);
  const i64 row = i / r.pairs / sets;
  float cosine, sine;
  rotation_of(r, positions[row], pair, cosine, sine);
  wait_for_inputs();
  if ((i64)blockIdx.x * blockDim.x + threadIdx.x >= threads) return;
  turn_heads(r, x + row * stride, head_dim, set * each, min(set * each + each, heads), pair, cosine, sine);
}

}  // namespace psi

PSI_API i32 psi_rope(void* x, const void* positions, const void* inv_freq, i32 rows, i32 stride, i32 offset, i32 heads, i32 head_dim, i32 rotary_dims, i32 neox, f32 mscale) {
  using namespace psi;
  if (!x || !positions || !inv_freq) return fail(PSI_INVALID, "[psi_rope] expected non-null pointers.");
  if (rows < 0 || heads < 1 || head_dim < 2 || offset < 0 || (i64)offset + (i64)heads * head_dim > stride)
    return fail(PSI_INVALID, "[psi_rope] expected heads inside the rows, got stride %d, offset %d, heads %d, head_dim %d.", stride, offset, heads, head_dim);
  if (rotary_dims < 2 || rotary_dims % 2 || rotary_dims > head_dim)
    return fail(PSI_INVALID, "[psi_rope] expected an even number of rotary dimensions up to %d, got %d.", head_dim, rotary_dims);
  const Rotation r = {(const float*)inv_freq, rotary_dims / 2, neox != 0, mscale};
  const i32 each = heads_at_once(rows);
  const i64 threads = (i64)rows * PSI_DIVIDE_UP(heads, each) * r.pairs;
  return launch("psi_rope", rope_kernel, dim3((u32)PSI_DIVIDE_UP(threads, 256)), dim3(256), 0, r, (float*)x + offset, (const i32*)positions,
                stride, heads, head_dim, each, threads);
}
