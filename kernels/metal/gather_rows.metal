/* y[r] = x[index[r]], f32 rows; an index outside the source gives NaN. One thread an element. */
#include <metal_stdlib>
#include "gather_rows.h"
using namespace metal;

kernel void gather_rows_f32(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], device const int* index [[buffer(2)]],
                            constant GatherRowsParams& p [[buffer(3)]], uint2 at [[thread_position_in_grid]]) {
  if (at.x >= p.width) return;
  const int row = index[at.y];
  y[ulong(at.y) * p.width + at.x] = row >= 0 && row < p.source_rows ? x[ulong(row) * p.width + at.x] : NAN;
}
