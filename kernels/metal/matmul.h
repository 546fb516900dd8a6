#pragma once
/*
 * Columns are cut into splits of MATMUL_SPLIT, each summed from zero, the splits added in order. Many rows: a threadgroup makes
 * MATMUL_ROWS x MATMUL_OUTPUTS of y, MATMUL_DEPTH columns at a time. Few rows: MATVEC_ROWS x MATVEC_OUTPUTS, a simdgroup has a split.
 */
enum {
  MATMUL_SPLIT = 512,
  MATMUL_ROWS = 32,
  MATMUL_OUTPUTS = 64,
  MATMUL_DEPTH = 32,
  MATMUL_THREADS = 128,
  MATVEC_ROWS = 8,
  MATVEC_OUTPUTS = 8,
  MATVEC_DEPTH = 64,
  MATVEC_SIMDS = 4,
  MATVEC_MOST_SPLITS = 48
};
struct MatmulParams {
  unsigned int rows, outputs, columns;
};
typedef struct MatmulParams MatmulParams;
