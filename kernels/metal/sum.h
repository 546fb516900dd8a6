#pragma once
enum { SUM_PIECE = 4096, SUM_THREADS = 256 };
struct SumParams {
  unsigned int count;
  float scale_high, scale_low;
  unsigned int limit_low, limit_high; /* bits of an f64 */
  unsigned int losses;
};
typedef struct SumParams SumParams;
