/* to[i] = from[i]: bytes, in words of 16, 4 or 1 byte by what the addresses allow. One thread a word. */
#include <metal_stdlib>
#include "copy.h"
using namespace metal;

template <typename T>
kernel void copy_words(device T* to [[buffer(0)]], device const T* from [[buffer(1)]], constant CopyParams& p [[buffer(2)]],
                       uint i [[thread_position_in_grid]]) {
  if (i < p.count) to[i] = from[i];
}
template [[host_name("copy_16")]] kernel void copy_words<uint4>(device uint4*, device const uint4*, constant CopyParams&, uint);
template [[host_name("copy_4")]] kernel void copy_words<uint>(device uint*, device const uint*, constant CopyParams&, uint);
template [[host_name("copy_1")]] kernel void copy_words<uchar>(device uchar*, device const uchar*, constant CopyParams&, uint);
