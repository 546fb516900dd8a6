/*
 * y[t] = scale * table[ids[t]], f32; table [vocabulary,width] in file layout. An id outside the table gives a row of NaN. One thread has
 * 16 columns of a token.
 */
#include <metal_stdlib>
#include "embedding.h"
#include "weights.h"
using namespace metal;

template <typename W>
kernel void embedding(device float* y [[buffer(0)]], device const uchar* table [[buffer(1)]], device const int* ids [[buffer(2)]],
                      constant EmbeddingParams& p [[buffer(3)]], uint2 at [[thread_position_in_grid]]) {
  if (at.x >= p.groups) return;
  const int id = ids[at.y];
  float v[16];
  const bool there = id >= 0 && id < p.vocabulary;
  if (there) W::values(table + ulong(id) * weight_row_bytes<W>(p.width), at.x, p.width, v);
  const uint count = min(16u, p.width - 16 * at.x);
  for (uint i = 0; i < count; i++) y[ulong(at.y) * p.width + 16 * at.x + i] = there ? v[i] * p.scale : NAN;
}
#define EMBEDDING(name, W)                                                                                                                  \
  template [[host_name(PSI_STRING(embedding_##name))]] kernel void embedding<W>(device float*, device const uchar*, device const int*,       \
                                                                                constant EmbeddingParams&, uint2);
PSI_EACH_WEIGHT(EMBEDDING)
