/* Weight types: ids (ggml's), block sizes. For launchers in C and, the ids, for kernels. */
#pragma once

enum PsiTypeId {
  PSI_F32 = 0,
  PSI_F16 = 1,
  PSI_Q4_0 = 2,
  PSI_Q4_1 = 3,
  PSI_Q5_0 = 6,
  PSI_Q5_1 = 7,
  PSI_Q8_0 = 8,
  PSI_Q2_K = 10,
  PSI_Q3_K = 11,
  PSI_Q4_K = 12,
  PSI_Q5_K = 13,
  PSI_Q6_K = 14,
  PSI_IQ4_NL = 20,
  PSI_IQ4_XS = 23,
  PSI_I32 = 26,
  PSI_F64 = 28,
  PSI_BF16 = 30,
  PSI_MXFP4 = 39
};

#ifndef __METAL_VERSION__
typedef struct {
  int id;
  const char* name; /* as in names of kernels: q4_k */
  int block;        /* elements of a block */
  int block_bytes;
} PsiType;

/* Null where the id is unknown; PSI_PACKED is not looked at. */
const PsiType* psi_find_type(int id);
#endif
