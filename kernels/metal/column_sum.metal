/* y[g,n] += sum over the rows of group g of x[t,n], t ascending, f32; x may be bf16. A thread has one column of one group. */
#include <metal_stdlib>
#include "column_sum.h"
#include "numbers.h"
using namespace metal;

kernel void column_sum_f32(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], device const int* starts [[buffer(2)]],
                           constant ColumnSumParams& p [[buffer(3)]], uint2 at [[thread_position_in_grid]]) {
  if (at.x >= p.width) return;
  uint from = 0, to = p.rows;
  if (p.has_starts != 0) {
    from = uint(max(starts[at.y], 0));
    to = uint(clamp(starts[at.y + 1], 0, int(p.rows)));
  }
  float sum = 0.0f;
  for (uint t = from; t < to; t++) sum += number(x, ulong(t) * p.width + at.x, 1);
  const ulong place = ulong(at.y) * p.width + at.x;
  y[place] = y[place] + sum;
}
