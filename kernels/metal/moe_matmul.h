#pragma once
#include "matmul.h"
/* moe_grouped makes tiles of MATMUL_OUTPUTS outputs of MATMUL_ROWS slots of one expert. */
enum { MOE_ORDER_THREADS = 256 };
struct MoeMatmulParams {
  int used, experts, outputs, columns, x_per_slot, slots;
  int kind; /* of psi_moe_glu */
  float alpha, limit;
};
typedef struct MoeMatmulParams MoeMatmulParams;
