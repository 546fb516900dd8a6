/*
 * Rows to experts and back. expert_rows copies a token's row to each of its slots, in the order of expert_order;
 * expert_combine sums a token's slots by weight. Both gradients, each place with one writer; a task is one token.
 */
#include "../common/pool.h"
#include "train.h"

PSI_KERNEL(expert_gather, float* y, const float* x, const i32* slots, i64 count, i64 used, i64 width)
PSI_KERNEL(expert_sum, float* y, const float* x, const float* weights, const i32* places, i64 tokens, i64 used, i64 width)
PSI_KERNEL(expert_combine_back, float* dx, float* dweights, const float* dy, const float* x, const float* weights, const i32* places, i64 tokens, i64 used, i64 width)

namespace psi {

/* weights absent: 1 */
template <class T>
static inline void sum_slots(T* y, const T* x, const T* weights, const i32* places, i64 used, i64 width) {
  for (i64 k = 0; k < width; k++) y[k] = 0;
  for (i64 j = 0; j < used; j++) {
    const T w = weights ? weights[j] : 1;
    const T* in = x + places[j] * width;
    for (i64 k = 0; k < width; k++) y[k] += w * in[k];
  }
}
template <class T>
static inline void spread_slots(T* dx, T* dweights, const T* dy, const T* x, const T* weights, const i32* places, i64 used, i64 width) {
  for (i64 j = 0; j < used; j++) {
    const i64 at = places[j] * width;
    double dot = 0;
    for (i64 k = 0; k < width; k++) {
      dx[at + k] = weights[j] * dy[k];
      dot += (double)dy[k] * x[at + k];
    }
    dweights[j] = (T)dot;
  }
}

}  // namespace psi

namespace psi::PSI_ISA {

void expert_gather(float* y, const float* x, const i32* slots, i64 count, i64 used, i64 width) {
  parallel(count, [&](i64 s, int) { memcpy(y + s * width, x + slots[s] / used * width, (size_t)width * 4); });
}
void expert_sum(float* y, const float* x, const float* weights, const i32* places, i64 tokens, i64 used, i64 width) {
  parallel(tokens, [&](i64 t, int) { sum_slots(y + t * width, x, weights ? weights + t * used : nullptr, places + t * used, used, width); });
}
void expert_combine_back(float* dx, float* dweights, const float* dy, const float* x, const float* weights, const i32* places, i64 tokens, i64 used, i64 width) {
  parallel(tokens, [&](i64 t, int) { spread_slots(dx, dweights + t * used, dy + t * width, x, weights + t * used, places + t * used, used, width); });
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
PSI_API i32 psi_expert_rows_ref(void* y, const void* x, const void* slots, i32 tokens, i32 used, i32 width, i32 dtype) {
  for (i64 s = 0; s < (i64)tokens * used; s++)
    for (i64 k = 0; k < width; k++)
      PSI_WITH_REAL(dtype, T, ((T*)y)[s * width + k] = ((const T*)x)[((const i32*)slots)[s] / used * (i64)width + k]);
  return PSI_OK;
}
PSI_API i32 psi_expert_rows_grad_ref(void* dx, const void* dy, const void* places, i32 tokens, i32 used, i32 width, i32 dtype) {
  for (i64 t = 0; t < tokens; t++)
    PSI_WITH_REAL(dtype, T, psi::sum_slots((T*)dx + t * width, (const T*)dy, (const T*)nullptr, (const i32*)places + t * used, used, width));
  return PSI_OK;
}
PSI_API i32 psi_expert_combine_ref(void* y, const void* x, const void* weights, const void* places, i32 tokens, i32 used, i32 width, i32 dtype) {
  for (i64 t = 0; t < tokens; t++)
    PSI_WITH_REAL(dtype, T, psi::sum_slots((T*)y + t * width, (const T*)x, (const T*)weights + t * used, (const i32*)places + t * used, used, width));
  return PSI_OK;
}
PSI_API i32 psi_expert_combine_grad_ref(void* dx, void* dweights, const void* dy, const void* x, const void* weights, const void* places, i32 tokens, i32 used, i32 width, i32 dtype) {
  for (i64 t = 0; t < tokens; t++)
    PSI_WITH_REAL(dtype, T, psi::spread_slots((T*)dx, (T*)dweights + t * used, (const T*)dy + t * width, (const T*)x, (const T*)weights + t * used, (const i32*)places + t * used, used, width));
  return PSI_OK;
}

static i32 check(const char* where, bool pointers, const void* index, i32 tokens, i32 used, i32 width, i32 dtype) {
  if (!pointers || !index || tokens < 0 || used < 1 || width < 1 || !psi::is_real(dtype))
    return psi::fail(PSI_INVALID, "[%s] expected pointers, f32 or f64 and positive sizes, got tokens %d, used %d, width %d, dtype %d.", where, tokens, used, width, dtype);
  const i64 count = (i64)tokens * used;
  for (i64 s = 0; s < count; s++)
    if (((const i32*)index)[s] < 0 || ((const i32*)index)[s] >= count)
      return psi::fail(PSI_INVALID, "[%s] expected places below %lld, got %d at %lld.", where, (long long)count, ((const i32*)index)[s], (long long)s);
  return PSI_OK;
}

PSI_API i32 psi_expert_rows(void* y, const void* x, const void* slots, i32 tokens, i32 used, i32 width, i32 dtype) {
  PSI_OPENED("psi_expert_rows");
  i32 status = check("psi_expert_rows", y && x, slots, tokens, used, width, dtype);
  if (status != PSI_OK) return status;
  if (dtype == psi::F64) return psi_expert_rows_ref(y, x, slots, tokens, used, width, dtype);
  PSI_RUN(expert_gather)((float*)y, (const float*)x, (const i32*)slots, (i64)tokens * used, used, width);
  return PSI_OK;
}
PSI_API i32 psi_expert_rows_grad(void* dx, const void* dy, const void* places, i32 tokens, i32 used, i32 width, i32 dtype) {
  PSI_OPENED("psi_expert_rows_grad");
  i32 status = check("psi_expert_rows_grad", dx && dy, places, tokens, used, width, dtype);
  if (status != PSI_OK) return status;
  if (dtype == psi::F64) return psi_expert_rows_grad_ref(dx, dy, places, tokens, used, width, dtype);
  PSI_RUN(expert_sum)((float*)dx, (const float*)dy, nullptr, (const i32*)places, tokens, used, width);
  return PSI_OK;
}
PSI_API i32 psi_expert_combine(void* y, const void* x, const void* weights, const void* places, i32 tokens, i32 used, i32 width, i32 dtype) {
  PSI_OPENED("psi_expert_combine");
  i32 status = check("psi_expert_combine", y && x && weights, places, tokens, used, width, dtype);
  if (status != PSI_OK) return status;
  if (dtype == psi::F64) return psi_expert_combine_ref(y, x, weights, places, tokens, used, width, dtype);
  PSI_RUN(expert_sum)((float*)y, (const float*)x, (const float*)weights, (const i32*)places, tokens, used, width);
  return PSI_OK;
}
PSI_API i32 psi_expert_combine_grad(void* dx, void* dweights, const void* dy, const void* x, const void* weights, const void* places, i32 tokens, i32 used, i32 width, i32 dtype) {
  PSI_OPENED("psi_expert_combine_grad");
  i32 status = check("psi_expert_combine_grad", dx && dweights && dy && x && weights, places, tokens, used, width, dtype);
  if (status != PSI_OK) return status;
  if (dtype == psi::F64) return psi_expert_combine_grad_ref(dx, dweights, dy, x, weights, places, tokens, used, width, dtype);
  PSI_RUN(expert_combine_back)((float*)dx, (float*)dweights, (const float*)dy, (const float*)x, (const float*)weights, (const i32*)places, tokens, used, width);
  return PSI_OK;
}
#endif
