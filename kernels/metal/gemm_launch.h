/* The product of gemm.metal, for launchers of other stems too. */
#pragma once
#include "train.h"

typedef struct {
  PsiNumbers c, a, b;
  const void *bias, *starts;
  i32 batch, m, n, k; /* groups: batch experts; m, or k with GEMM_SUMS, is the rows of all of them */
  bool trans_a, trans_b, accumulate;
  i32 groups;
} PsiGemm;

i32 psi_gemm_product(const PsiGemm* g);
