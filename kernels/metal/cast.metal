/* y = x in another float type, to the nearest even, and fill: y[i] = value. One thread an element. */
#include <metal_stdlib>
#include "cast.h"
#include "numbers.h"
using namespace metal;

kernel void cast_f32_bf16(device ushort* y [[buffer(0)]], device const float* x [[buffer(1)]], constant CastParams& p [[buffer(2)]],
                          uint i [[thread_position_in_grid]]) {
  if (i < p.count) y[i] = ushort(bf16_bits(x[i]));
}
kernel void cast_bf16_f32(device float* y [[buffer(0)]], device const ushort* x [[buffer(1)]], constant CastParams& p [[buffer(2)]],
                          uint i [[thread_position_in_grid]]) {
  if (i < p.count) y[i] = bf16_value(x[i]);
}
kernel void fill_f32(device float* y [[buffer(0)]], constant CastParams& p [[buffer(1)]], uint i [[thread_position_in_grid]]) {
  if (i < p.count) put(y, i, 0, p.value);
}
