/*
 * Routing of tokens to experts for training, with gradients; plain loops, since logits are few.
 *   route: the `used` largest logits, the lower index on ties; weights: mode 1 softmax over all, 3 softmax over the chosen
 *   expert_order: slots sorted by expert (stable), where each went, where each expert begins
 *   balance_loss: experts * sum_e f_e P_e, f the share of slots and P the mean probability (Switch Transformer, arXiv:2101.03961)
 */
#include <math.h>

#include "train.h"

#ifdef PSI_LAUNCHER
/* Softmax over `n` logits; p may not be the logits. */
template <class T>
static void softmax(double* p, const T* z, i64 n) {
  double most = -INFINITY, sum = 0;
  for (i64 e = 0; e < n; e++) most = fmax(most, (double)z[e]);
  for (i64 e = 0; e < n; e++) sum += p[e] = exp(z[e] - most);
  for (i64 e = 0; e < n; e++) p[e] /= sum;
}
constexpr i32 MOST_EXPERTS = 1024;

template <class T>
static void choose(i32* ids, T* weights, const T* logits, i64 tokens, i64 experts, i64 used, i32 mode) {
  double p[MOST_EXPERTS];
  T chosen[MOST_EXPERTS];
  for (i64 t = 0; t < tokens; t++) {
    const T* z = logits + t * experts;
    for (i64 j = 0; j < used; j++) {
      i64 best = -1;
      for (i64 e = 0; e < experts; e++) {
        bool taken = false;
        for (i64 i = 0; i < j; i++) taken = taken || ids[t * used + i] == e;
        if (!taken && (best < 0 || z[e] > z[best])) best = e;
      }
      ids[t * used + j] = (i32)best;
      chosen[j] = z[best];
    }
    softmax(p, mode == 1 ? z : chosen, mode == 1 ? experts : used);
    for (i64 j = 0; j < used; j++) weights[t * used + j] = (T)p[mode == 1 ? ids[t * used + j] : j];
  }
}

template <class T>
static void choose_grad(T* dlogits, const T* dweights, const T* weights, const i32* ids, const T* logits, i64 tokens, i64 experts, i64 used, i32 mode) {
  double p[MOST_EXPERTS];
  for (i64 t = 0; t < tokens; t++) {
    double mean = 0;
    for (i64 j = 0; j < used; j++) mean += (double)weights[t * used + j] * dweights[t * used + j];
    T* d = dlogits + t * experts;
    if (mode == 1) softmax(p, logits + t * experts, experts);
    for (i64 e = 0; e < experts; e++) d[e] = mode == 1 ? (T)(-p[e] * mean) : 0;
    for (i64 j = 0; j < used; j++) {
      const i64 at = t * used + j;
      d[ids[at]] += (T)(weights[at] * (mode == 1 ? dweights[at] : dweights[at] - mean));
    }
  }
}

template <class T>
static void balance(T* loss, T* dlogits, const T* dloss, const T* logits, const i32* ids, i64 tokens, i64 experts, i64 used) {
  double p[MOST_EXPERTS], share[MOST_EXPERTS] = {};
  for (i64 s = 0; s < tokens * used; s++) share[ids[s]] += 1.0 / (double)(tokens * used);
  double total = 0;
  for (i64 t = 0; t < tokens; t++) {
    softmax(p, logits + t * experts, experts);
    double mean = 0;
    for (i64 e = 0; e < experts; e++) mean += share[e] * p[e];
    total += mean;
    if (!dlogits) continue;
    for (i64 e = 0; e < experts; e++) dlogits[t * experts + e] = (T)(dloss[0] * (double)experts / (double)tokens * p[e] * (share[e] - mean));
  }
  if (loss) loss[0] = (T)(total * (double)experts / (double)(tokens > 0 ? tokens : 1));
}

PSI_API i32 psi_route_ref(void* ids, void* weights, const void* logits, i32 tokens, i32 experts, i32 used, i32 mode, i32 dtype) {
  PSI_WITH_REAL(dtype, T, choose((i32*)ids, (T*)weights, (const T*)logits, tokens, experts, used, mode));
  return PSI_OK;
}
PSI_API i32 psi_route_grad_ref(void* dlogits, const void* dweights, const void* weights, const void* ids, const void* logits, i32 tokens, i32 experts, i32 used, i32 mode, i32 dtype) {
  PSI_WITH_REAL(dtype, T, choose_grad((T*)dlogits, (const T*)dweights, (const T*)weights, (const i32*)ids, (const T*)logits, tokens, experts, used, mode));
  return PSI_OK;
}
PSI_API i32 psi_balance_loss_ref(void* loss, const void* logits, const void* ids, i32 tokens, i32 experts, i32 used, i32 dtype) {
  PSI_WITH_REAL(dtype, T, balance((T*)loss, (T*)nullptr, (const T*)nullptr, (const T*)logits, (const i32*)ids, tokens, experts, used));
  return PSI_OK;
}
PSI_API i32 psi_balance_loss_grad_ref(void* dlogits, const void* dloss, const void* logits, const void* ids, i32 tokens, i32 experts, i32 used, i32 dtype) {
  PSI_WITH_REAL(dtype, T, balance((T*)nullptr, (T*)dlogits, (const T*)dloss, (const T*)logits, (const i32*)ids, tokens, experts, used));
  return PSI_OK;
}
PSI_API i32 psi_expert_order_ref(void* slots, void* places, void* starts, const void* ids, i32 tokens, i32 used, i32 experts) {
  i32 *slot = (i32*)slots, *place = (i32*)places, *start = (i32*)starts;
  const i32* id = (const i32*)ids;
  i32 next = 0;
  for (i32 e = 0; e < experts; e++) {
    start[e] = next;
    for (i32 s = 0; s < tokens * used; s++)
      if (id[s] == e) {
        place[s] = next;
        slot[next++] = s;
      }
  }
  start[experts] = next;
  return PSI_OK;
}

static i32 check(const char* where, bool pointers, i32 tokens, i32 experts, i32 used, i32 mode, i32 dtype) {
  if (!pointers || tokens < 0 || experts < 1 || experts > MOST_EXPERTS || used < 1 || used > experts || (mode != 1 && mode != 3) || !psi::is_real(dtype))
    return psi::fail(PSI_INVALID, "[%s] expected pointers, f32 or f64, 1..%d experts, of which 1 or more are used, and mode 1 or 3, got tokens %d, experts %d, used %d, mode %d, dtype %d.", where, MOST_EXPERTS, tokens, experts, used, mode, dtype);
  return PSI_OK;
}
static i32 check_ids(const char* where, const i32* ids, i64 count, i32 experts) {
  for (i64 s = 0; s < count; s++)
    if (ids[s] < 0 || ids[s] >= experts) return psi::fail(PSI_INVALID, "[%s] expected experts below %d, got %d at %lld.", where, experts, ids[s], (long long)s);
  return PSI_OK;
}

PSI_API i32 psi_route(void* ids, void* weights, const void* logits, i32 tokens, i32 experts, i32 used, i32 mode, i32 dtype) {
  i32 status = check("psi_route", ids && weights && logits, tokens, experts, used, mode, dtype);
  return status != PSI_OK ? status : psi_route_ref(ids, weights, logits, tokens, experts, used, mode, dtype);
}
PSI_API i32 psi_route_grad(void* dlogits, const void* dweights, const void* weights, const void* ids, const void* logits, i32 tokens, i32 experts, i32 used, i32 mode, i32 dtype) {
  i32 status = check("psi_route_grad", dlogits && dweights && weights && ids && logits, tokens, experts, used, mode, dtype);
  if (status == PSI_OK) status = check_ids("psi_route_grad", (const i32*)ids, (i64)tokens * used, experts);
  return status != PSI_OK ? status : psi_route_grad_ref(dlogits, dweights, weights, ids, logits, tokens, experts, used, mode, dtype);
}
PSI_API i32 psi_expert_order(void* slots, void* places, void* starts, const void* ids, i32 tokens, i32 used, i32 experts) {
  i32 status = check("psi_expert_order", slots && places && starts && ids, tokens, experts, used, 1, psi::F32);
  if (status == PSI_OK) status = check_ids("psi_expert_order", (const i32*)ids, (i64)tokens * used, experts);
  return status != PSI_OK ? status : psi_expert_order_ref(slots, places, starts, ids, tokens, used, experts);
}
PSI_API i32 psi_balance_loss(void* loss, const void* logits, const void* ids, i32 tokens, i32 experts, i32 used, i32 dtype) {
  i32 status = check("psi_balance_loss", loss && logits && ids, tokens, experts, used, 1, dtype);
  if (status == PSI_OK) status = check_ids("psi_balance_loss", (const i32*)ids, (i64)tokens * used, experts);
  return status != PSI_OK ? status : psi_balance_loss_ref(loss, logits, ids, tokens, experts, used, dtype);
}
PSI_API i32 psi_balance_loss_grad(void* dlogits, const void* dloss, const void* logits, const void* ids, i32 tokens, i32 experts, i32 used, i32 dtype) {
  i32 status = check("psi_balance_loss_grad", dlogits && dloss && logits && ids, tokens, experts, used, 1, dtype);
  if (status == PSI_OK) status = check_ids("psi_balance_loss_grad", (const i32*)ids, (i64)tokens * used, experts);
  return status != PSI_OK ? status : psi_balance_loss_grad_ref(dlogits, dloss, logits, ids, tokens, experts, used, dtype);
}
#endif
