/* y[r,k] = value of weight (r,k), f32 [rows,columns] from file layout, bit for bit ggml's. One thread has 16 columns of a row. */
#include <metal_stdlib>
#include "dequantize.h"
#include "weights.h"
using namespace metal;

template <typename W>
kernel void dequantize(device float* y [[buffer(0)]], device const uchar* x [[buffer(1)]], constant DequantizeParams& p [[buffer(2)]],
                       uint2 at [[thread_position_in_grid]]) {
  if (at.x >= p.groups || at.y >= p.rows) return;
  float v[16];
  W::values(x + at.y * weight_row_bytes<W>(p.columns), at.x, p.columns, v);
  const uint last = min(16u, p.columns - 16 * at.x);
  for (uint i = 0; i < last; i++) y[ulong(at.y) * p.columns + 16 * at.x + i] = v[i];
}
#define DEQUANTIZE(name, W) \
  template [[host_name(PSI_STRING(dequantize_##name))]] kernel void dequantize<W>(device float*, device const uchar*, constant DequantizeParams&, uint2);
PSI_EACH_WEIGHT(DEQUANTIZE)
