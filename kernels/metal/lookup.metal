/*
 * f32; y and table, and dy, may be bf16.
 * lookup: y[t] = table[ids[t]], NaN where there is no such row; a thread an element.
 * lookup_grad: dtable[ids[t]] += dy[t], t ascending. A threadgroup has one token: it works where no token before has the
 * same id, and then adds the rows of all that have it, each thread its columns, so that every place has one writer.
 */
#include <metal_stdlib>
#include "lookup.h"
#include "numbers.h"
using namespace metal;

kernel void lookup_f32(device float* y [[buffer(0)]], device const float* table [[buffer(1)]], device const int* ids [[buffer(2)]],
                       constant LookupParams& p [[buffer(3)]], uint2 at [[thread_position_in_grid]]) {
  if (at.x >= p.width) return;
  const uint id = uint(ids[at.y]);
  put(y, ulong(at.y) * p.width + at.x, 0, id < p.vocabulary ? number(table, ulong(id) * p.width + at.x, 1) : NAN);
}

kernel void lookup_grad_f32(device float* dtable [[buffer(0)]], device const float* dy [[buffer(1)]], device const int* ids [[buffer(2)]],
                            constant LookupParams& p [[buffer(3)]], uint token [[threadgroup_position_in_grid]],
                            uint lane [[thread_index_in_simdgroup]], uint thread_index [[thread_index_in_threadgroup]],
                            uint simds [[simdgroups_per_threadgroup]]) {
  const int id = ids[token];
  if (uint(id) >= p.vocabulary) return;
  /* each simdgroup looks for itself: no barrier, and all come to the same answer */
  bool before = false;
  for (uint t = lane; t < token; t += 32) before = before || ids[t] == id;
  if (simd_any(before)) return;
  for (uint column = thread_index; column < p.width; column += 32 * simds) {
    const ulong place = ulong(id) * p.width + column;
    float sum = dtable[place];
    for (uint t = token; t < p.tokens; t++)
      if (ids[t] == id) sum += number(dy, ulong(t) * p.width + column, 1);
    dtable[place] = sum;
  }
}
