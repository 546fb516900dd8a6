/* y = a + b over f32 [count]. */
#include "launch.h"

namespace psi {

__global__ void add_kernel(float* y, const float* a, const float* b, i64 count) {
  let_next_start();
  wait_for_inputs();
  i64 i = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * 4;
  if (i + 4 <= count) {
    float4 p = *(const float4*)(a + i), q = *(const float4*)(b + i);
    *(float4*)(y + i) = make_float4(p.x + q.x, p.y + q.y, p.z + q.z, p.w + q.w);
  } else {
    for (; i < count; i++) y[i] = a[i] + b[i];
  }
}

}  // namespace psi

PSI_API i32 psi_add(void* y, const void* a, const void* b, f64 count) {
  if (!y || !a || !b) return psi::fail(PSI_INVALID, "[psi_add] expected non-null pointers.");
  i64 n = (i64)count;
  if (!(count >= 1) || n > (i64)1 << 40) return psi::fail(PSI_INVALID, "[psi_add] expected a count from 1, got %g.", count);
  return psi::launch("psi_add", psi::add_kernel, dim3((unsigned)PSI_DIVIDE_UP(n, 1024)), dim3(256), 0, (float*)y, (const float*)a, (const float*)b, n);
}
