/* y[i] = (a[i] + b[i]) * scale, f32. One thread an element; y may be a or b. */
#include <metal_stdlib>
#include "add_scaled.h"
using namespace metal;

kernel void add_scaled_f32(device float* y [[buffer(0)]], device const float* a [[buffer(1)]], device const float* b [[buffer(2)]],
                           constant AddScaledParams& p [[buffer(3)]], uint i [[thread_position_in_grid]]) {
  if (i < p.count) y[i] = (a[i] + b[i]) * p.scale;
}
