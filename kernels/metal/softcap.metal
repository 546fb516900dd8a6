/* y[i] = cap * tanh(x[i] / cap), f32. One thread an element; y may be x. */
#include <metal_stdlib>
#include "softcap.h"
using namespace metal;

kernel void softcap_f32(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], constant SoftcapParams& p [[buffer(2)]],
                        uint i [[thread_position_in_grid]]) {
  if (i < p.count) y[i] = p.cap * precise::tanh(x[i] / p.cap);
}
