/* y = (a + b) * scale over f32 [count]; y may be a or b. */
#include "launch.h"

namespace psi {

__global__ void add_scaled_kernel(float* y, const float* a, const float* b, i64 count, float scale) {
  let_next_start();
  wait_for_inputs();
  i64 i = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * 4;
  if (i + 4 <= count) {
    float4 p = *(const float4*)(a + i), q = *(const float4*)(b + i);
    *(float4*)(y + i) = make_float4((p.x + q.x) * scale, (p.y + q.y) * scale, (p.z + q.z) * scale, (p.w + q.w) * scale);
  } else {
    for (; i < count; i++) y[i] = (a[i] + b[i]) * scale;
  }
}

}  // namespace psi

PSI_API i32 psi_add_scaled(void* y, const void* a, const void* b, f64 count, f32 scale) {
  if (!y || !a || !b) return psi::fail(PSI_INVALID, "[psi_add_scaled] expected non-null pointers.");
  i64 n = (i64)count;
  if (!(count >= 1) || n > (i64)1 << 40) return psi::fail(PSI_INVALID, "[psi_add_scaled] expected a count from 1, got %g.", count);
  return psi::launch("psi_add_scaled", psi::add_scaled_kernel, dim3((unsigned)PSI_DIVIDE_UP(n, 1024)), dim3(256), 0, (float*)y, (const float*)a,
                     (const float*)b, n, scale);
}
