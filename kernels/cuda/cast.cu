/* cast: f32 and bf16, each to each; fill: one value everywhere. Four elements a thread. */
#include "train.cuh"

namespace psi {

__global__ void cast_kernel(Out y, In x, i64 count) {
  let_next_start();
  wait_for_inputs();
  const i64 i = flat_place();
  if (i < count) put_some4(y, i, count - i, i + 4 <= count, some4(x, i, count - i, i + 4 <= count));
}

__global__ void fill_kernel(Out y, i64 count, float value) {
  let_next_start();
  wait_for_inputs();
  const i64 i = flat_place();
  if (i < count) put_some4(y, i, count - i, i + 4 <= count, make_float4(value, value, value, value));
}

}  // namespace psi

PSI_API i32 psi_cast(void* y, const void* x, i32 from, i32 to, f64 count) {
  using namespace psi;
  const bool known = (from == F32 || from == BF16) && (to == F32 || to == BF16);
  if (!y || !x || !(count >= 0)) return fail(PSI_INVALID, "[psi_cast] expected pointers and a count of at least 0, got count %.0f.", count);
  if (!known) return fail(PSI_UNSUPPORTED, "[psi_cast] expected f32 and bf16 on CUDA, got types %d and %d.", from, to);
  return launch("psi_cast", cast_kernel, flat_grid((i64)count), dim3(FLAT_THREADS), 0, Out{y, to == BF16}, In{x, from == BF16}, (i64)count);
}

PSI_API i32 psi_fill(void* y, i32 dtype, f64 count, f64 value) {
  using namespace psi;
  PSI_REFUSE_F64("psi_fill", dtype);
  if (!y || !(count >= 0)) return fail(PSI_INVALID, "[psi_fill] expected a pointer and a count of at least 0, got count %.0f.", count);
  return launch("psi_fill", fill_kernel, flat_grid((i64)count), dim3(FLAT_THREADS), 0, Out{y, half_at(dtype, 0)}, (i64)count, (float)value);
}
