#pragma once
/* Groups: none; rows of a and c by expert; the summed rows by expert. */
enum { GEMM_SIDE = 32, GEMM_DEPTH = 32, GEMM_STRIDE = 36, GEMM_THREADS = 128, GEMM_PLAIN = 0, GEMM_ROWS = 1, GEMM_SUMS = 2 };
struct GemmParams {
  unsigned int m, n, k;
};
typedef struct GemmParams GemmParams;
