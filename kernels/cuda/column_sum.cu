/* y[g,n] += sum over the rows of group g of x[t,n]; chunks of rows, then their sums (columns.cuh). */
#include "columns.cuh"

namespace psi {

float* column_parts = nullptr;

i32 open_columns(const char* where) {
  const cudaError_t error = cudaMalloc((void**)&column_parts, COLUMN_PARTS * sizeof(float));
  if (error == cudaSuccess) return PSI_OK;
  column_parts = nullptr;
  return cuda_failed(where, error);
}

void close_columns() {
  cudaFree(column_parts);
  column_parts = nullptr;
}

}  // namespace psi

PSI_API i32 psi_column_sum(void* y, const void* x, const void* starts, i32 rows, i32 width, i32 groups, i32 dtype) {
  using namespace psi;
  PSI_REFUSE_F64("psi_column_sum", dtype);
  if (!y || !x || rows < 0 || width < 1 || groups < 1 || (!starts && groups != 1) || half_at(dtype, 0))
    return fail(PSI_INVALID, "[psi_column_sum] expected pointers, sums in f32 and positive sizes, got rows %d, width %d, groups %d, dtype %d.", rows, width, groups, dtype);
  i32 chunks = 0;
  PSI_TRY(column_parts_of("psi_column_sum", ColumnTerms{{x, half_at(dtype, 1)}, width}, (const i32*)starts, rows, width, groups, chunks));
  return add_column_parts("psi_column_sum", (float*)y, width, groups, 1, 0, chunks, 1.0f);
}
