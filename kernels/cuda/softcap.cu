/* y = cap * tanh(x / cap) over f32 [count]; y may be x. */
#include "launch.h"

namespace psi {

__global__ void softcap_kernel(float* y, const float* x, i64 count, float cap) {
  let_next_start();
  wait_for_inputs();
  const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) y[i] = cap * tanhf(x[i] / cap);
}

}  // namespace psi

PSI_API i32 psi_softcap(void* y, const void* x, f64 count, f32 cap) {
  using namespace psi;
  if (!y || !x) return fail(PSI_INVALID, "[psi_softcap] expected non-null pointers.");
  if (!(count >= 1 && count < 1e12) || !(cap > 0)) return fail(PSI_INVALID, "[psi_softcap] expected a count and a cap above 0, got %g and %g.", count, (double)cap);
  return launch("psi_softcap", softcap_kernel, dim3((unsigned)PSI_DIVIDE_UP((i64)count, 256)), dim3(256), 0, (float*)y, (const float*)x, (i64)count, cap);
}
