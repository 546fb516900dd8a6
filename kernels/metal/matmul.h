#pragma once
/* A threadgroup makes MATMUL_ROWS x MATMUL_OUTPUTS of y, MATMUL_DEPTH columns at a time. */
enum { MATMUL_ROWS = 8, MATMUL_OUTPUTS = 32, MATMUL_DEPTH = 32, MATMUL_THREADS = 128 };
struct MatmulParams {
  unsigned int rows, outputs, columns;
};
typedef struct MatmulParams MatmulParams;
