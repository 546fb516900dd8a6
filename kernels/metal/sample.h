#pragma once
/* Rows are cut into pieces of SAMPLE_PIECE logits. SAMPLE_WORK_BYTES is a record's scratch, as src/ir/ops/sample.ts has it. */
enum {
  SAMPLE_THREADS = 256,
  SAMPLE_PIECE = 8192,
  SAMPLE_PIECES = 64,
  SAMPLE_WIDEST = 524288,
  SAMPLE_BINS = 2048,
  SAMPLE_LIST = 2048, /* candidates that are sorted; a power of two */
  SAMPLE_WORK_BYTES = 59408
};
struct SampleParams {
  int rows, width, entry_count, mask_count, draws;
};
typedef struct SampleParams SampleParams;
