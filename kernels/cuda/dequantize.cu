/*
 * y[r,k] = value of weight (r,k), f32 [rows, columns], of rows in file layout in device memory: bit for bit ggml's, as
 * psi_dequantize on the CPU. F32 is copied; F64 is not taken. A thread per weight.
 */
#include "file_block.cuh"

namespace psi {

constexpr int DEQUANTIZE_THREADS = 256;

__global__ void dequantize_kernel(float* y, const u8* x, i32 columns, i32 dtype, i64 row_bytes) {
  let_next_start();
  wait_for_inputs();
  const i32 k = blockIdx.y * DEQUANTIZE_THREADS + threadIdx.x;
  if (k < columns) y[(i64)blockIdx.x * columns + k] = file_value(dtype, x + blockIdx.x * row_bytes, k);
}

}  // namespace psi

PSI_API i32 psi_dequantize(void* y, const void* x, i32 rows, i32 columns, i32 dtype) {
  using namespace psi;
  if (!y || !x) return fail(PSI_INVALID, "[psi_dequantize] expected non-null pointers.");
  if (rows < 0 || columns < 1) return fail(PSI_INVALID, "[psi_dequantize] expected rows >= 0 and columns >= 1, got %d and %d.", rows, columns);
  const TypeInfo* type;
  PSI_TRY(check_weight_type("psi_dequantize", dtype, columns, &type));
  if (dtype == F64) return fail(PSI_UNSUPPORTED, "[psi_dequantize] expected another type than F64 on CUDA.");
  const dim3 grid((unsigned)rows, (unsigned)PSI_DIVIDE_UP(columns, DEQUANTIZE_THREADS));
  return launch("psi_dequantize", dequantize_kernel, grid, dim3(DEQUANTIZE_THREADS), 0, (float*)y, (const u8*)x, columns, dtype, row_bytes(*type, columns));
}
