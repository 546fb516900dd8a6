/* Which tokens of a flat batch belong to which sequence, and where its state lies: causal_conv1d and gated_delta_rule. */
#pragma once
#include "../common/isa.h"

namespace psi {

/* Rows first, first + 1, ... of the batch. */
struct Run {
  i64 first, count;
};

struct Recurrent {
  const i32 *sequence, *position, *slot;
  i64 tokens, sequences, slots;

  __attribute__((always_inline)) i64 slot_of(i64 token) const { return slot[sequence[token]]; }
  /* The tokens of a sequence; count 0: it has none in this batch. */
  __attribute__((always_inline)) Run run(i64 s) const {
    i64 first = 0;
    while (first < tokens && sequence[first] != s) first++;
    i64 end = first;
    while (end < tokens && sequence[end] == s) end++;
    return {first, end - first};
  }
};

#ifdef PSI_LAUNCHER
/* Tokens of a sequence stand together, in order; every sequence has a slot of its own. */
static inline i32 check_recurrent(const char* where, const Recurrent& r) {
  if (!r.sequence || !r.position || !r.slot) return fail(PSI_INVALID, "[%s] expected non-null pointers.", where);
  if (r.tokens < 0 || r.sequences < 1 || r.slots < 1)
    return fail(PSI_INVALID, "[%s] expected tokens, sequences and slots, got %lld, %lld and %lld.", where, (long long)r.tokens, (long long)r.sequences, (long long)r.slots);
  for (i64 t = 0; t < r.tokens; t++) {
    const i64 s = r.sequence[t];
    if (s < 0 || s >= r.sequences || r.position[t] < 0)
      return fail(PSI_INVALID, "[%s] expected a sequence below %lld and a position, got %lld and %d of token %lld.", where, (long long)r.sequences, (long long)s, r.position[t], (long long)t);
    if (t > 0 && r.sequence[t - 1] == s) {
      if (r.position[t] != r.position[t - 1] + 1)
        return fail(PSI_INVALID, "[%s] expected position %d after %d, got %d of token %lld.", where, r.position[t - 1] + 1, r.position[t - 1], r.position[t], (long long)t);
      continue;
    }
    if (r.slot[s] < 0 || r.slot[s] >= r.slots)
      return fail(PSI_INVALID, "[%s] expected a slot below %lld, got %d of sequence %lld.", where, (long long)r.slots, r.slot[s], (long long)s);
    for (i64 u = 0; u < t; u++)
      if (r.sequence[u] == s || r.slot[r.sequence[u]] == r.slot[s])
        return fail(PSI_INVALID, "[%s] expected sequences whose tokens stand together, each with a slot of its own, got tokens %lld and %lld.", where, (long long)u, (long long)t);
  }
  return PSI_OK;
}
#endif

}  // namespace psi
