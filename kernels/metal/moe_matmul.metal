/*
 * y[s,n] = x[row(s)] . w[e(s)][n] (+ bias[e(s),n]) for slots s = token*used + j, row(s) = s if x_per_slot, else token; w: experts' matrices
 * [outputs,columns] in file layout one after the other. A slot of no expert gives NaN. GLU: the matrices are [2 outputs,columns], gate
 * rows first, and y[s,n] = act(gate n, up n) (glu.metal). The order of a sum is matmul.metal's, so a slot's bits depend on nothing else,
 * and GLU's are those of the product and glu one after the other.
 *
 * moe_matvec, few slots: a threadgroup makes 8 outputs of a slot as matvec does, whose other rows are zeros.
 * moe_order and moe_grouped, many: slots are put in order of their experts, those of none last; then a threadgroup makes 64 outputs of 32
 * slots of one expert as matmul does: weights are read and dequantised once for 32 rows. Which slots share a tile changes no bit.
 */
#include <metal_stdlib>
#include "gate.h"
#include "moe_matmul.h"
#include "product.h"
using namespace metal;

constant bool HAS_BIAS [[function_constant(0)]];
constant bool GLU [[function_constant(1)]];

/* An element of y from sums of products; `second` is that of the up row. */
static inline float made(float first, float second, device const float* bias, ulong row, constant MoeMatmulParams& p) {
  const float v = HAS_BIAS ? first + bias[row] : first;
  if (!GLU) return v;
  return gated(p.kind, v, HAS_BIAS ? second + bias[row + uint(p.outputs)] : second, p.alpha, p.limit);
}

template <typename W>
kernel void moe_matvec(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], device const uchar* w [[buffer(2)]],
                       device const float* bias [[buffer(3)]], device const int* expert_ids [[buffer(4)]], constant MoeMatmulParams& p [[buffer(5)]],
                       uint2 at [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]],
                       uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]]) {
  threadgroup float weights[MATVEC_SIMDS][MATVEC_OUTPUTS][MATVEC_DEPTH];
  threadgroup float inputs[MATVEC_SIMDS][MATVEC_ROWS][MATVEC_DEPTH];
  threadgroup float parts[MATVEC_MOST_SPLITS][MATVEC_OUTPUTS];
  const uint first_output = at.x * MATVEC_OUTPUTS, slot = at.y, columns = uint(p.columns), outputs = uint(p.outputs);
  const uint splits = (columns + MATMUL_SPLIT - 1) / MATMUL_SPLIT, halves = GLU ? 2 : 1;
  const int expert = expert_ids[slot];
  const bool there = expert >= 0 && expert < p.experts;
  device const float* in = x + ulong(p.x_per_slot != 0 ? slot : slot / uint(p.used)) * columns;
  for (uint i = lane; i < MATVEC_ROWS * MATVEC_DEPTH; i += 32) inputs[simd][i / MATVEC_DEPTH][i % MATVEC_DEPTH] = 0.0f;
  for (uint part = simd; there && part < halves * splits; part += MATVEC_SIMDS) {
    const uint split = part % splits;
    device const uchar* matrix = w + (ulong(uint(expert)) * halves + part / splits) * outputs * weight_row_bytes<W>(columns);
    simdgroup_float8x8 sums = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    const uint end = min((split + 1) * MATMUL_SPLIT, columns);
    for (uint k = split * MATMUL_SPLIT; k < end; k += MATVEC_DEPTH) {
      simdgroup_barrier(mem_flags::mem_threadgroup);
      place_weights<W>(&weights[simd][lane / 4][lane % 4 * 16], matrix, first_output + lane / 4, outputs, k / 16 + lane % 4, columns);
      for (uint i = lane; i < MATVEC_DEPTH; i += 32) inputs[simd][0][i] = k + i < columns ? in[k + i] : 0.0f;
      simdgroup_barrier(mem_flags::mem_threadgroup);
      for (uint step = 0; step < MATVEC_DEPTH; step += 8) {
        simdgroup_float8x8 a, b;
        simdgroup_load(a, &inputs[simd][0][step], MATVEC_DEPTH);
        simdgroup_load(b, &weights[simd][0][step], MATVEC_DEPTH, ulong2(0, 0), true);
        simdgroup_multiply_accumulate(sums, a, b, sums);
      }
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
    simdgroup_store(sums, &weights[simd][0][0], MATVEC_OUTPUTS);
    simdgroup_barrier(mem_flags::mem_threadgroup);
    if (lane < MATVEC_OUTPUTS) parts[part][lane] = weights[simd][0][lane];
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  const uint output = first_output + thread_index;
  if (thread_index >= MATVEC_OUTPUTS || output >= outputs) return;
  float sums[2] = {0.0f, 0.0f};
  for (uint half_index = 0; there && half_index < halves; half_index++)
    for (uint s = 0; s < splits; s++) sums[half_index] += parts[half_index * splits + s][thread_index];
  y[ulong(slot) * outputs + output] = there ? made(sums[0], sums[1], bias, ulong(uint(expert)) * halves * outputs + output, p) : NAN;
}

/*
 * One threadgroup. order: the slots, expert by expert (in no fixed order inside of one: no result depends on it); starts [experts+2]: where an
 * expert's begin in it, expert number `experts` standing for none; tiles [experts+2]: where its tiles begin.
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
      tile += (count + MATMUL_ROWS - 1) / MATMUL_ROWS;
    }
  }
  threadgroup_barrier(mem_flags::mem_device);
  for (uint s = thread_index; s < slots; s += MOE_ORDER_THREADS) {
    const uint at = atomic_fetch_add_explicit(&starts[min(uint(expert_ids[s]), experts)], 1, memory_order_relaxed);
    order[at] = int(s);
  }
}

template <typename W>
kernel void moe_grouped(device float* y [[buffer(0)]], device const float* x [[buffer(1)]], device const uchar* w [[buffer(2)]],
                        device const float* bias [[buffer(3)]], constant MoeMatmulParams& p [[buffer(4)]], device const int* order [[buffer(5)]],
                        device const uint* ends [[buffer(6)]], device const uint* tiles [[buffer(7)]], threadgroup float* gates [[threadgroup(0)]],
                        uint2 at [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]],
                        uint simd [[simdgroup_index_in_threadgroup]]) {
  threadgroup float weights[MATMUL_OUTPUTS][MATMUL_DEPTH];
  threadgroup float inputs[MATMUL_ROWS][MATMUL_DEPTH];
  threadgroup int slots[MATMUL_ROWS];
  const uint experts = uint(p.experts), columns = uint(p.columns), outputs = uint(p.outputs), halves = GLU ? 2 : 1;
  const uint first_output = at.x * MATMUL_OUTPUTS;
  if (at.y >= tiles[experts + 1]) return;
  uint expert = 0, past = experts + 1;
  while (past - expert > 1) {
    const uint middle = (expert + past) / 2;
    if (tiles[middle] <= at.y) expert = middle;
    else past = middle;
  }
  /* moe_order left in `ends` where an expert's slots end */
  const uint first = (expert == 0 ? 0 : ends[expert - 1]) + (at.y - tiles[expert]) * MATMUL_ROWS, rows = min(uint(MATMUL_ROWS), ends[expert] - first);
  const bool there = expert < experts;
  if (thread_index < MATMUL_ROWS) slots[thread_index] = thread_index < rows ? order[first + thread_index] : -1;
  for (uint half_index = 0; there && half_index < halves; half_index++) {
    device const uchar* matrix = w + (ulong(expert) * halves + half_index) * outputs * weight_row_bytes<W>(columns);
    simdgroup_float8x8 totals[4][2], sums[4][2];
    for (uint r = 0; r < 4; r++)
      for (uint o = 0; o < 2; o++) totals[r][o] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    for (uint split = 0; split < columns; split += MATMUL_SPLIT) {
      for (uint r = 0; r < 4; r++)
        for (uint o = 0; o < 2; o++) sums[r][o] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
      const uint end = min(split + MATMUL_SPLIT, columns);
      for (uint k = split; k < end; k += MATMUL_DEPTH) {
        threadgroup_barrier(mem_flags::mem_threadgroup);
        place_weights<W>(&weights[thread_index / 2][thread_index % 2 * 16], matrix, first_output + thread_index / 2, outputs, k / 16 + thread_index % 2, columns);
        for (uint i = thread_index; i < MATMUL_ROWS * MATMUL_DEPTH; i += MATMUL_THREADS) {
          const int slot = slots[i / MATMUL_DEPTH];
          const uint column = k + i % MATMUL_DEPTH;
          const bool inside = slot >= 0 && column < columns;
          inputs[i / MATMUL_DEPTH][i % MATMUL_DEPTH] = inside ? x[ulong(uint(p.x_per_slot != 0 ? slot : slot / p.used)) * columns + column] : 0.0f;
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint step = 0; step < MATMUL_DEPTH; step += 8) {
          simdgroup_float8x8 a, b[2];
          for (uint o = 0; o < 2; o++) simdgroup_load(b[o], &weights[16 * simd + 8 * o][step], MATMUL_DEPTH, ulong2(0, 0), true);
          for (uint r = 0; r < 4; r++) {
            if (8 * r >= rows) break;
            simdgroup_load(a, &inputs[8 * r][step], MATMUL_DEPTH);
            for (uint o = 0; o < 2; o++) simdgroup_multiply_accumulate(sums[r][o], a, b[o], sums[r][o]);
          }
        }
      }
      for (uint r = 0; r < 4; r++)
        for (uint o = 0; o < 2; o++)
          for (uint e = 0; e < 2; e++) totals[r][o].thread_elements()[e] += sums[r][o].thread_elements()[e];
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    /* [MATMUL_ROWS][MATMUL_OUTPUTS], the last ones in the weights' place */
    threadgroup float* to = half_index + 1 < halves ? gates : &weights[0][0];
    for (uint r = 0; r < 4; r++)
      for (uint o = 0; o < 2; o++) simdgroup_store(totals[r][o], to + 8 * r * MATMUL_OUTPUTS + 16 * simd + 8 * o, MATMUL_OUTPUTS);
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (uint i = thread_index; i < MATMUL_ROWS * MATMUL_OUTPUTS; i += MATMUL_THREADS) {
    const uint row = i / MATMUL_OUTPUTS, output = first_output + i % MATMUL_OUTPUTS;
    if (row >= rows || output >= outputs) continue;
    float v = NAN;
    if (there) {
      const float last = (&weights[0][0])[i];
      v = made(GLU ? gates[i] : last, last, bias, ulong(expert) * halves * outputs + output, p);
    }
    y[ulong(uint(slots[row])) * outputs + output] = v;
  }
}
#define MOE_MATMUL(name, W)                                                                                                                     \
  template [[host_name(PSI_STRING(moe_matvec_##name))]] kernel void moe_matvec<W>(device float*, device const float*, device const uchar*,       \
                                                                                  device const float*, device const int*, constant MoeMatmulParams&, \
                                                                                  uint2, uint, uint, uint);                                      \
  template [[host_name(PSI_STRING(moe_grouped_##name))]] kernel void moe_grouped<W>(device float*, device const float*, device const uchar*,     \
                                                                                    device const float*, constant MoeMatmulParams&, device const int*, \
                                                                                    device const uint*, device const uint*, threadgroup float*, uint2, \
                                                                                    uint, uint);
PSI_EACH_WEIGHT(MOE_MATMUL)
