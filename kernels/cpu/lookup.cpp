/*
 * lookup: y[t] = table[ids[t]]. lookup_grad: dtable[ids[t]] += dy[t] with t ascending, a task being 16 columns of all
 * tokens, so that no two tasks write the same place and the order of sums is that of the tokens.
 */
#include "../common/pool.h"
#include "../common/simd.h"
#include "train.h"

PSI_KERNEL(lookup, float* y, const float* table, const i32* ids, i64 tokens, i64 width)
PSI_KERNEL(lookup_grad, float* dtable, const float* dy, const i32* ids, i64 tokens, i64 width)

namespace psi::PSI_ISA {

void lookup(float* y, const float* table, const i32* ids, i64 tokens, i64 width) {
  parallel(tokens, [&](i64 t, int) { memcpy(y + t * width, table + (i64)ids[t] * width, (size_t)width * 4); });
}

void lookup_grad(float* dtable, const float* dy, const i32* ids, i64 tokens, i64 width) {
  parallel((width + 15) / 16, [&](i64 task, int) {
    const i64 n = task * 16;
    const int lanes = (int)(width - n < 16 ? width - n : 16);
    for (i64 t = 0; t < tokens; t++) {
      float* at = dtable + (i64)ids[t] * width + n;
      store_n(at, load_n(at, lanes) + load_n(dy + t * width + n, lanes), lanes);
    }
  });
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
template <class T>
static void plain(T* y, const T* table, const i32* ids, i64 tokens, i64 width) {
  for (i64 t = 0; t < tokens; t++)
    for (i64 n = 0; n < width; n++) y[t * width + n] = table[ids[t] * width + n];
}
template <class T>
static void plain_grad(T* dtable, const T* dy, const i32* ids, i64 tokens, i64 width) {
  for (i64 t = 0; t < tokens; t++)
    for (i64 n = 0; n < width; n++) dtable[ids[t] * width + n] += dy[t * width + n];
}

PSI_API i32 psi_lookup_ref(void* y, const void* table, const void* ids, i32 tokens, i32 width, i32, i32 dtype) {
  PSI_WITH_REAL(dtype, T, plain((T*)y, (const T*)table, (const i32*)ids, tokens, width));
  return PSI_OK;
}
PSI_API i32 psi_lookup_grad_ref(void* dtable, const void* dy, const void* ids, i32 tokens, i32 width, i32, i32 dtype) {
  PSI_WITH_REAL(dtype, T, plain_grad((T*)dtable, (const T*)dy, (const i32*)ids, tokens, width));
  return PSI_OK;
}

static i32 check_lookup(const char* where, const void* y, const void* table, const void* ids, i32 tokens, i32 width, i32 vocabulary, i32 dtype) {
  if (!y || !table || !ids || tokens < 0 || width < 1 || vocabulary < 1 || !psi::is_real(dtype))
    return psi::fail(PSI_INVALID, "[%s] expected pointers, f32 or f64 and positive sizes, got tokens %d, width %d, vocabulary %d, dtype %d.", where, tokens, width, vocabulary, dtype);
  for (i64 t = 0; t < tokens; t++)
    if (((const i32*)ids)[t] < 0 || ((const i32*)ids)[t] >= vocabulary)
      return psi::fail(PSI_INVALID, "[%s] expected ids below %d, got %d at %lld.", where, vocabulary, ((const i32*)ids)[t], (long long)t);
  return PSI_OK;
}

PSI_API i32 psi_lookup(void* y, const void* table, const void* ids, i32 tokens, i32 width, i32 vocabulary, i32 dtype) {
  PSI_OPENED("psi_lookup");
  i32 status = check_lookup("psi_lookup", y, table, ids, tokens, width, vocabulary, dtype);
  if (status != PSI_OK) return status;
  if (dtype == psi::F64) return psi_lookup_ref(y, table, ids, tokens, width, vocabulary, dtype);
  PSI_RUN(lookup)((float*)y, (const float*)table, (const i32*)ids, tokens, width);
  return PSI_OK;
}
PSI_API i32 psi_lookup_grad(void* dtable, const void* dy, const void* ids, i32 tokens, i32 width, i32 vocabulary, i32 dtype) {
  PSI_OPENED("psi_lookup_grad");
  i32 status = check_lookup("psi_lookup_grad", dtable, dy, ids, tokens, width, vocabulary, dtype);
  if (status != PSI_OK) return status;
  if (dtype == psi::F64) return psi_lookup_grad_ref(dtable, dy, ids, tokens, width, vocabulary, dtype);
  PSI_RUN(lookup_grad)((float*)dtable, (const float*)dy, (const i32*)ids, tokens, width);
  return PSI_OK;
}
#endif
