/* y[r] = x[index[r]], f32 rows of `width`; an index outside the source gives NaN. */
#include "launch.h"

namespace psi {

__global__ void gather_rows_kernel(float* y, const float* x, const i32* index, i32 width, i32 source_rows) {
  let_next_start();
  wait_for_inputs();
  const i32 k = blockIdx.y * blockDim.x + threadIdx.x, from = index[blockIdx.x];
  if (k >= width) return;
  y[(i64)blockIdx.x * width + k] = (u32)from < (u32)source_rows ? x[(i64)from * width + k] : __uint_as_float(0x7fffffff);
}

}  // namespace psi

PSI_API i32 psi_gather_rows(void* y, const void* x, const void* index, i32 rows, i32 width, i32 source_rows) {
  using namespace psi;
  if (!y || !x || !index) return fail(PSI_INVALID, "[psi_gather_rows] expected non-null pointers.");
  if (rows < 0 || width < 1 || source_rows < 1)
    return fail(PSI_INVALID, "[psi_gather_rows] expected rows >= 0, a width and source rows, got %d, %d, %d.", rows, width, source_rows);
  return launch("psi_gather_rows", gather_rows_kernel, dim3((unsigned)rows, (unsigned)PSI_DIVIDE_UP(width, 256)), dim3(256), 0, (float*)y,
                (const float*)x, (const i32*)index, width, source_rows);
}
