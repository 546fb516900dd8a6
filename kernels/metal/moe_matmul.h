#pragma once
enum { MOE_THREADS = 128 };
struct MoeMatmulParams {
  int used, experts, outputs, columns, x_per_slot;
};
typedef struct MoeMatmulParams MoeMatmulParams;
