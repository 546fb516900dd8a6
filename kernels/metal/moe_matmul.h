#pragma once
/* A simdgroup of moe_grouped makes MOE_OUTPUTS outputs of MOE_ROWS slots. */
enum { MOE_THREADS = 128, MOE_ORDER_THREADS = 256, MOE_ROWS = 8, MOE_OUTPUTS = 2 };
struct MoeMatmulParams {
  int used, experts, outputs, columns, x_per_slot, slots;
};
typedef struct MoeMatmulParams MoeMatmulParams;
