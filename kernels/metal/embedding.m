/* psi_embedding: see embedding.metal. */
#include "embedding.h"

#include <stdio.h>

#include "launch.h"

PSI_API i32 psi_embedding(void* y, const void* table, const void* ids, i32 tokens, i32 width, i32 vocabulary, i32 dtype, f32 scale) {
  const PsiType* type;
  if (tokens < 0 || width < 1 || vocabulary < 1)
    return psi_fail(PSI_INVALID, "[psi_embedding] expected tokens >= 0, width >= 1, vocabulary >= 1, got %d, %d, %d.", tokens, width, vocabulary);
  PSI_TRY(psi_check_weight("psi_embedding", dtype, width, &type));
  if (tokens == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_embedding", y, table, ids));
  char name[40];
  snprintf(name, sizeof name, "embedding_%s", type->name);
  PsiLaunch l = psi_kernel("embedding", name);
  psi_write(&l, 0, y, 4.0 * tokens * width);
  psi_read(&l, 1, table, (f64)vocabulary * (width / type->block) * type->block_bytes);
  psi_read(&l, 2, ids, 4.0 * tokens);
  EmbeddingParams p = {(u32)width, (u32)PSI_DIVIDE_UP(width, 16), vocabulary, scale};
  psi_params(&l, 3, &p, sizeof p);
  return psi_launch(&l, PSI_DIVIDE_UP(p.groups, 64), tokens, 1, 64, 1, 1);
}
