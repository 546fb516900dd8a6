/*
 * y[t,n] = sum_k x[t,k] w[n,k] (+ bias[n]): x, y f32, w packed (dtype | PSI_PACKED), any type; F64 takes f64 x, y and
 * bias and runs the reference loops. Accumulation: see product.h. w aligned to 64 bytes, scratch to anything.
 * Block types need columns in multiples of their block. A task is a few panels by a range of rows.
 * Scratch: rows * columns * 2 + 64 bytes for block types (with PSI_A16 rows * columns * 4 + 64), else none.
 */
#include "../common/half.h"
#include "../common/pool.h"
#include "../common/types.h"
#include "product.h"
#include "rows.h"

PSI_DOT_KERNEL(matmul, float* y, const float* x, const u8* w, const float* bias, u8* scratch, i64 rows, i64 outputs, i64 columns, i32 dtype, i32 parts)

namespace psi::PSI_ISA {

void matmul(float* y, const float* x, const u8* w, const float* bias, u8* scratch, i64 rows, i64 outputs, i64 columns, i32 dtype, i32 parts) {
  const bool blocks = find_type(dtype)->block > 1;
  InputBlock* in = (InputBlock*)(((uintptr_t)scratch + 63) & ~(uintptr_t)63);
  if (blocks) quantize_inputs(in, x, rows, columns, dtype, parts);
  const i64 panels = panel_count(outputs), wanted = 4 * pool_threads();
  /* Tasks large enough to reuse what they load, small enough that every thread has some. */
  i64 group = blocks && rows * parts > 4 ? 16 : 4, chunk = 128;
  while (group > 1 && panels / group * ((rows + chunk - 1) / chunk) < wanted) group /= 2;
  const i64 groups = (panels + group - 1) / group;
  while (chunk > 32 && groups * ((rows + chunk - 1) / chunk) < wanted) chunk /= 2;
  const i64 chunks = (rows + chunk - 1) / chunk;
  parallel(groups * chunks, [&](i64 i, int thread) {
    const i64 g = i / chunks, first = i % chunks * chunk;
    ProductTask t;
    t.y = y;
    t.x = x;
    t.in = in;
    t.panels = w;
    t.bias = bias;
    t.slots = nullptr;
    t.scratch = thread_scratch(thread);
    t.first_row = first;
    t.rows = rows - first < chunk ? rows - first : chunk;
    t.outputs = outputs;
    t.input_rows = rows;
    t.columns = columns;
    t.first_panel = g * group;
    t.panel_count = panels - t.first_panel < group ? panels - t.first_panel : group;
    t.dtype = dtype;
    t.slots_per_input = 1;
    t.parts = parts;
    product(t);
  });
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
#include "reference.h"

static i32 check_matmul(const char* where, const void* y, const void* x, const void* w, i32 rows, i32 outputs, i32 columns, i32 dtype) {
  if (!y || !x || !w) return psi::fail(PSI_INVALID, "[%s] expected non-null pointers.", where);
  if (rows < 0 || outputs < 1 || columns < 1)
    return psi::fail(PSI_INVALID, "[%s] expected rows >= 0, outputs >= 1, columns >= 1, got %d, %d, %d.", where, rows, outputs, columns);
  const psi::TypeInfo* type;
  return psi::check_weight_type(where, dtype & ~(PSI_PACKED | PSI_A16), columns, &type);
}

static void matmul_reference(void* y, const void* x, const u8* w, const void* bias, i64 rows, i64 outputs, i64 columns, i32 dtype) {
  psi::reference_rows(outputs, columns, dtype, w, [&](i64 n, const double* row) {
    for (i64 r = 0; r < rows; r++) psi::reference_dot(y, r * outputs + n, x, r, row, columns, bias, n, dtype);
  });
}

PSI_API i32 psi_matmul(void* y, const void* x, const void* w, const void* bias, void* scratch, i32 rows, i32 outputs, i32 columns, i32 dtype, f64 scratch_bytes) {
  PSI_OPENED("psi_matmul");
  i32 status = check_matmul("psi_matmul", y, x, w, rows, outputs, columns, dtype);
  if (status != PSI_OK) return status;
  if (!(dtype & PSI_PACKED)) return psi::fail(PSI_INVALID, "[psi_matmul] expected packed weights (dtype | %d), got dtype %d. Use psi_pack.", PSI_PACKED, dtype);
  const psi::TypeInfo& type = *psi::find_type(dtype & ~(PSI_PACKED | PSI_A16));
  const i32 parts = type.block > 1 && dtype & PSI_A16 ? 2 : 1;
  const f64 needed = type.block > 1 ? (f64)rows * columns * 2 * parts + 64 : 0;
  if (needed > 0 && (!scratch || !(scratch_bytes >= needed)))
    return psi::fail(PSI_INVALID, "[psi_matmul] expected %.0f bytes of scratch, got %.0f.", needed, scratch ? scratch_bytes : 0);
  if ((uintptr_t)w % 64 != 0) return psi::fail(PSI_INVALID, "[psi_matmul] expected weights aligned to 64 bytes.");
  if (rows == 0) return PSI_OK;
  if (type.id == psi::F64) matmul_reference(y, x, (const u8*)w, bias, rows, outputs, columns, type.id | PSI_PACKED);
  else PSI_RUN(matmul)((float*)y, (const float*)x, (const u8*)w, (const float*)bias, (u8*)scratch, rows, outputs, columns, type.id, parts);
  return PSI_OK;
}

PSI_API i32 psi_matmul_ref(void* y, const void* x, const void* w, const void* bias, void*, i32 rows, i32 outputs, i32 columns, i32 dtype, f64) {
  i32 status = check_matmul("psi_matmul_ref", y, x, w, rows, outputs, columns, dtype);
  if (status != PSI_OK) return status;
  matmul_reference(y, x, (const u8*)w, bias, rows, outputs, columns, dtype & ~PSI_A16);
  return PSI_OK;
}
#endif
