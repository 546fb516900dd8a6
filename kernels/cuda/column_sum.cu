/* y[g,n] += sum over the rows of group g of x[t,n]; chunks of rows, then their sums (columns.cuh). */
#include "columns.cuh"

namespace psi {

struct ColumnTerms {
  static constexpr int SUMS = 1;
  In x;
  i32 width;
  __device__ __forceinline__ void term(float4* total, i64 row, i32 column, i64 valid, bool whole) const {
    const float4 v = some4(x, row * width + column, valid, whole);
    total[0].x += v.x, total[0].y += v.y, total[0].z += v.z, total[0].w += v.w;
  }
};

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
