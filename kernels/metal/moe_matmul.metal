/*
 * y[s,n] = x[row(s)] . w[e(s)][n] (+ bias[e(s),n]) for slots s = token*used + j, row(s) = s if x_per_slot, else token; w: experts' matrices
 * [outputs,columns] in file layout one after the other. A slot of no expert gives NaN. The sum of a slot and an output: a lane's columns are
 * its groups of 16 lane, lane + 32, ..., ascending in f32 by fma, then the lanes' sums by simd_sum. Both ways do exactly that, so a
 * slot's bits depend on nothing else.
 *
 * moe_matmul, few slots: a simdgroup has an output of a slot.
 * moe_order and moe_grouped, many: slots are put in order of their experts, those of none last; then a simdgroup has 2 outputs of 8 slots
 * of one expert, so that weights are read and dequantised once for 8 rows. Which slots share a tile changes no bit.
 */
#include <metal_stdlib>
#include "moe_matmul.h"
#include "weights.h"
using namespace metal;

constant bool HAS_BIAS [[function_constant(0)]];

template <typename W>
kernel void moe_matmul(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], device const uchar* w [[buffer(2)]],
                       device const float* bias [[buffer(3)]], device const int* expert_ids [[buffer(4)]], constant MoeMatmulParams& p [[buffer(5)]],
                       uint2 at [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]],
                       uint simd [[simdgroup_index_in_threadgroup]]) {
  const uint output = at.x * (MOE_THREADS / 32) + simd, slot = at.y, columns = uint(p.columns), outputs = uint(p.outputs);
  if (output >= outputs) return;
  const int expert = expert_ids[slot];
  const bool there = expert >= 0 && expert < p.experts;
  const ulong row = ulong(max(expert, 0)) * outputs + output;
  device const float* in = x + ulong(p.x_per_slot != 0 ? slot : slot / uint(p.used)) * columns;
  float sum = 0.0f;
  for (uint group = lane; there && 16 * group < columns; group += 32) {
    float v[16];
    W::values(w + row * weight_row_bytes<W>(columns), group, columns, v);
    const uint count = min(16u, columns - 16 * group);
    for (uint i = 0; i < count; i++) sum = fma(v[i], in[16 * group + i], sum);
  }
  sum = simd_sum(sum);
  if (lane == 0) y[ulong(slot) * outputs + output] = !there ? NAN : HAS_BIAS ? sum + bias[row] : sum;
}

/*
 * One threadgroup. order: the slots, expert by expert (in no fixed order inside of one: no result depends on it); starts [experts+2]: where an
 * expert's begin in it, expert number `experts` standing for none; tiles [experts+2]: where its tiles of 8 begin.
 */
kernel void moe_order(device int* order [[buffer(0)]], device atomic_uint* starts [[buffer(1)]], device uint* tiles [[buffer(2)]],
                      device const int* expert_ids [[buffer(3)]], constant MoeMatmulParams& p [[buffer(4)]],
                      uint thread_index [[thread_index_in_threadgroup]]) {
  const uint experts = uint(p.experts), slots = uint(p.slots);
  for (uint e = thread_index; e < experts + 2; e += MOE_ORDER_THREADS) atomic_store_explicit(&starts[e], 0, memory_order_relaxed);
  threadgroup_barrier(mem_flags::mem_device);
  for (uint s = thread_index; s < slots; s += MOE_ORDER_THREADS)
    atomic_fetch_add_explicit(&starts[min(uint(expert_ids[s]), experts)], 1, memory_order_relaxed);
  threadgroup_barrier(mem_flags::mem_device);
  if (thread_index == 0) {
    uint slot = 0, tile = 0;
    for (uint e = 0; e < experts + 2; e++) {
      const uint count = atomic_load_explicit(&starts[e], memory_order_relaxed);
      atomic_store_explicit(&starts[e], slot, memory_order_relaxed);
      tiles[e] = tile;
      slot += count;
      tile += (count + MOE_ROWS - 1) / MOE_ROWS;
    }
  }
  threadgroup_barrier(mem_flags::mem_device);
  for (uint s = thread_index; s < slots; s += MOE_ORDER_THREADS) {
    const uint at = atomic_fetch_add_explicit(&starts[min(uint(expert_ids[s]), experts)], 1, memory_order_relaxed);
    order[at] = int(s);
  }
}

/* 16 values of a row of x; zeros past its end. */
inline void load_inputs(device const float* in, uint count, bool by_four, thread float* u) {
  if (by_four && count == 16) {
    for (uint i = 0; i < 4; i++) {
      const float4 four = ((device const float4*)in)[i];
      u[4 * i] = four.x;
      u[4 * i + 1] = four.y;
      u[4 * i + 2] = four.z;
      u[4 * i + 3] = four.w;
    }
    return;
  }
  for (uint i = 0; i < 16; i++) u[i] = i < count ? in[i] : 0.0f;
}

template <typename W>
kernel void moe_grouped(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], device const uchar* w [[buffer(2)]],
                        device const float* bias [[buffer(3)]], constant MoeMatmulParams& p [[buffer(4)]], device const int* order [[buffer(5)]],
                        device const uint* ends [[buffer(6)]], device const uint* tiles [[buffer(7)]], uint2 at [[threadgroup_position_in_grid]],
                        uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]]) {
  const uint experts = uint(p.experts), columns = uint(p.columns), outputs = uint(p.outputs);
  const uint first_output = (at.x * (MOE_THREADS / 32) + simd) * MOE_OUTPUTS;
  if (first_output >= outputs || at.y >= tiles[experts + 1]) return;
  uint expert = 0, past = experts + 1;
  while (past - expert > 1) {
    const uint middle = (expert + past) / 2;
    if (tiles[middle] <= at.y) expert = middle;
    else past = middle;
  }
  /* moe_order left in `ends` where an expert's slots end */
  const uint first = (expert == 0 ? 0 : ends[expert - 1]) + (at.y - tiles[expert]) * MOE_ROWS, rows = min(uint(MOE_ROWS), ends[expert] - first);
  const bool there = expert < experts;
  const uint made = min(uint(MOE_OUTPUTS), outputs - first_output);
  ulong from[MOE_ROWS];
  for (uint r = 0; r < MOE_ROWS; r++) {
    const uint slot = uint(order[first + min(r, rows - 1)]);
    from[r] = ulong(p.x_per_slot != 0 ? slot : slot / uint(p.used)) * columns;
  }
  float sums[MOE_ROWS][MOE_OUTPUTS];
  for (uint r = 0; r < MOE_ROWS; r++)
    for (uint o = 0; o < MOE_OUTPUTS; o++) sums[r][o] = 0.0f;
  const bool by_four = columns % 4 == 0;
  const ulong row = ulong(there ? expert : 0) * outputs + first_output;
  for (uint group = lane; there && 16 * group < columns; group += 32) {
    float v[MOE_OUTPUTS][16];
    for (uint o = 0; o < MOE_OUTPUTS; o++) W::values(w + (row + min(o, made - 1)) * weight_row_bytes<W>(columns), group, columns, v[o]);
    const uint count = min(16u, columns - 16 * group);
    for (uint r = 0; r < MOE_ROWS; r++) {
      if (r >= rows) continue;
      float u[16];
      load_inputs(x + from[r] + 16 * group, count, by_four, u);
      for (uint o = 0; o < MOE_OUTPUTS; o++) {
        float sum = sums[r][o];
        if (count == 16) {
          for (uint i = 0; i < 16; i++) sum = fma(v[o][i], u[i], sum);
        } else {
          for (uint i = 0; i < count; i++) sum = fma(v[o][i], u[i], sum);
        }
        sums[r][o] = sum;
      }
    }
  }
  for (uint r = 0; r < MOE_ROWS; r++)
    for (uint o = 0; o < MOE_OUTPUTS; o++) {
      const float sum = simd_sum(sums[r][o]);
      if (lane != 0 || r >= rows || o >= made) continue;
      const ulong to = ulong(order[first + r]) * outputs + first_output + o;
      y[to] = !there ? NAN : HAS_BIAS ? sum + bias[row + o] : sum;
    }
}
#define MOE_MATMUL(name, W)                                                                                                                     \
  template [[host_name(PSI_STRING(moe_matmul_##name))]] kernel void moe_matmul<W>(device float*, device const float*, device const uchar*,       \
                                                                                  device const float*, device const int*, constant MoeMatmulParams&, \
                                                                                  uint2, uint, uint);                                            \
  template [[host_name(PSI_STRING(moe_grouped_##name))]] kernel void moe_grouped<W>(device float*, device const float*, device const uchar*,     \
                                                                                    device const float*, constant MoeMatmulParams&, device const int*, \
                                                                                    device const uint*, device const uint*, uint2, uint, uint);
PSI_EACH_WEIGHT(MOE_MATMUL)
