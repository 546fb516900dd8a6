/* The table of weight types, the checks that launchers share, and launches of one number a row. */
#include <stdarg.h>
#include <stdio.h>

#include "launch.h"

static const PsiType types[] = {
    {PSI_F32, "f32", 1, 4},      {PSI_F16, "f16", 1, 2},         {PSI_Q4_0, "q4_0", 32, 18},     {PSI_Q4_1, "q4_1", 32, 20},
    {PSI_Q5_0, "q5_0", 32, 22},  {PSI_Q5_1, "q5_1", 32, 24},     {PSI_Q8_0, "q8_0", 32, 34},     {PSI_Q2_K, "q2_k", 256, 84},
    {PSI_Q3_K, "q3_k", 256, 110}, {PSI_Q4_K, "q4_k", 256, 144},  {PSI_Q5_K, "q5_k", 256, 176},   {PSI_Q6_K, "q6_k", 256, 210},
    {PSI_IQ4_NL, "iq4_nl", 32, 18}, {PSI_IQ4_XS, "iq4_xs", 256, 136}, {PSI_BF16, "bf16", 1, 2},   {PSI_MXFP4, "mxfp4", 32, 17},
};

const PsiType* psi_find_type(int id) {
  for (unsigned i = 0; i < sizeof types / sizeof types[0]; i++)
    if (types[i].id == (id & ~PSI_PACKED)) return &types[i];
  return NULL;
}

static _Thread_local char text[640];

i32 psi_fail(i32 status, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  return status;
}

PSI_API const char* psi_last_error(void) { return text; }
/* Names of all functions of this library, a line each; made by the build. */
extern const char psi_symbol_list[];
PSI_API const char* psi_symbols(void) { return psi_symbol_list; }
PSI_API i32 psi_abi_version(void) { return PSI_ABI_VERSION; }

i32 psi_check_count(const char* where, f64 count) {
  if (count >= 0 && count < 2147483648.0) return PSI_OK;
  return psi_fail(PSI_INVALID, "[%s] expected 0 to 2147483647 elements, got %g.", where, count);
}

i32 psi_check_sizes(const char* where, const i32* sizes, i32 count) {
  for (i32 i = 0; i < count; i++)
    if (sizes[i] < 0) return psi_fail(PSI_INVALID, "[%s] expected sizes of at least 0, got %d.", where, sizes[i]);
  return PSI_OK;
}

i32 psi_check_pointers(const char* where, const void* const* pointers, i32 count) {
  for (i32 i = 0; i < count; i++)
    if (!pointers[i]) return psi_fail(PSI_INVALID, "[%s] expected non-null pointers, got null at %d.", where, i);
  return PSI_OK;
}

i32 psi_check_weight(const char* where, i32 dtype, i32 columns, const PsiType** type) {
  *type = psi_find_type(dtype);
  if (!*type) return psi_fail(PSI_UNSUPPORTED, "[%s] expected a weight type that Metal kernels take, got id %d.", where, dtype & ~PSI_PACKED);
  if (columns >= 0 && columns % (*type)->block == 0) return PSI_OK;
  return psi_fail(PSI_INVALID, "[%s] expected columns in multiples of %d for %s, got %d.", where, (*type)->block, (*type)->name, columns);
}

i32 psi_check_scratch(const char* where, const void* scratch, f64 given, f64 needed) {
  if (needed <= 0 || (scratch && given >= needed)) return PSI_OK;
  return psi_fail(PSI_INVALID, "[%s] expected %.0f bytes of scratch, got %.0f.", where, needed, scratch ? given : 0);
}

i32 psi_launch_rows(const char* op, void* y, const void* x, i32 rows, i32 width, i32 threads) {
  char where[64], kernel[64];
  snprintf(where, sizeof where, "psi_%s", op);
  snprintf(kernel, sizeof kernel, "%s_f32", op);
  if (rows < 0 || width < 1) return psi_fail(PSI_INVALID, "[%s] expected rows and a width, got %d x %d.", where, rows, width);
  if (rows == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS(where, y, x));
  PsiLaunch l = psi_kernel(op, kernel);
  psi_write(&l, 0, y, 4.0 * rows);
  psi_read(&l, 1, x, 4.0 * rows * width);
  psi_params(&l, 2, &width, sizeof width);
  return psi_launch(&l, rows, 1, 1, threads, 1, 1);
}
