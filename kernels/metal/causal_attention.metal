/*
 * Attention of sequences over themselves, f32 (q, k, v, y, its rest and their gradients may be bf16), forward and backward; scores never exist whole.
 *   s = scale q.k (cap tanh(s/cap) with a soft-cap), p = exp(s - lse), y = sum p v;  lse counts exp(sink) where there are sinks
 *   D = dy.(y + rest), dv += p dy, ds = p (dy.v - D) scale (1 - (s/cap)^2), dq += ds k, dk += ds q, dsink -= exp(sink - lse) D
 *   rest: what rounding to y's type took from y
 * Rows see first[row] (or 0) .. themselves, the last `window` of them. Products by simdgroup matrices. A threadgroup of 4
 * simdgroups has 8 rows of a head (causal_forward, causal_dq) or 8 keys of a key head (causal_dkv) and walks blocks of 32 of the
 * others, which begin at multiples of 32: a simdgroup makes 8 x 8 of a block's scores, then 8 columns of each 32 of the
 * head. Forward follows FlashAttention-2 (arXiv:2307.08691): the softmax runs over blocks; results made so far are scaled by a
 * product with a diagonal matrix. Every sum has one writer and one order; keys of a row do not depend on other rows' values.
 */
#include <metal_stdlib>
#include "causal_attention.h"
#include "numbers.h"
using namespace metal;

constant bool HAS_SINKS [[function_constant(0)]];
constant bool HAS_FIRST [[function_constant(1)]];
constant bool SOFTCAP [[function_constant(2)]];
constant bool HAS_REST [[function_constant(3)]];

static inline uint first_seen(device const int* first, constant CausalParams& p, uint sequence, uint row) {
  uint from = 0;
  if (HAS_FIRST) from = uint(clamp(first[ulong(sequence) * p.length + row], 0, int(row)));
  if (p.window > 0 && row + 1 > p.window + from) from = row + 1 - p.window;
  return from;
}
static inline float capped(float s, constant CausalParams& p) {
  s = s * p.scale;
  return SOFTCAP ? p.softcap * tanh(s / p.softcap) : s;
}

/* to [rows][32] = columns chunk*32 .. of `rows` rows of a head from row r0, rows `wide` apart; zeros beyond. */
static inline void stage(threadgroup float* to, uint stride, device const float* from, uint buffer, ulong wide, uint rows, uint r0, uint length, uint chunk, uint head_dim,
                  uint thread_index) {
  for (uint i = thread_index; i < rows * CAUSAL_BLOCK; i += CAUSAL_THREADS) {
    const uint r = i / CAUSAL_BLOCK, e = chunk * CAUSAL_BLOCK + i % CAUSAL_BLOCK;
    to[r * stride + i % CAUSAL_BLOCK] = r0 + r < length && e < head_dim ? number(from, ulong(r0 + r) * wide + e, buffer) : 0.0f;
  }
}
/* The 8 own rows [8][stride] of all chunks. */
static inline void stage_own(threadgroup float* own, uint stride, device const float* from, uint buffer, ulong wide, uint r0, uint length, uint chunks, uint head_dim,
                      uint thread_index) {
  for (uint chunk = 0; chunk < chunks; chunk++) stage(own + chunk * CAUSAL_BLOCK, stride, from, buffer, wide, CAUSAL_OWN, r0, length, chunk, head_dim, thread_index);
}
/* scores [8][32] = own . block^T over the whole head; the block passes through `tile`. Ends with a barrier. */
static inline void products(threadgroup float* scores, threadgroup float* own, uint stride, threadgroup float* tile, device const float* block, uint buffer, ulong wide,
                     uint b0, uint length, uint chunks, uint head_dim, uint thread_index, uint simd) {
  simdgroup_float8x8 sum = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
  for (uint chunk = 0; chunk < chunks; chunk++) {
    threadgroup_barrier(mem_flags::mem_threadgroup);
    stage(tile, CAUSAL_STRIDE, block, buffer, wide, CAUSAL_BLOCK, b0, length, chunk, head_dim, thread_index);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint step = 0; step < CAUSAL_BLOCK; step += 8) {
      simdgroup_float8x8 a, b;
      simdgroup_load(a, own + chunk * CAUSAL_BLOCK + step, stride);
      simdgroup_load(b, tile + 8 * simd * CAUSAL_STRIDE + step, CAUSAL_STRIDE, ulong2(0, 0), true);
      simdgroup_multiply_accumulate(sum, a, b, sum);
    }
  }
  simdgroup_store(sum, scores + 8 * simd, CAUSAL_STRIDE);
  threadgroup_barrier(mem_flags::mem_threadgroup);
}
/* sums[chunk] += p [8][32] . block's columns of the chunk that are the simdgroup's. */
static inline void accumulate(thread simdgroup_float8x8* sums, threadgroup float* p, threadgroup float* tile, device const float* block, uint buffer, ulong wide, uint b0,
                       uint length, uint chunks, uint head_dim, uint thread_index, uint simd) {
  for (uint chunk = 0; chunk < CAUSAL_CHUNKS; chunk++) {
    if (chunk >= chunks) break;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    stage(tile, CAUSAL_STRIDE, block, buffer, wide, CAUSAL_BLOCK, b0, length, chunk, head_dim, thread_index);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint step = 0; step < CAUSAL_BLOCK; step += 8) {
      simdgroup_float8x8 a, b;
      simdgroup_load(a, p + step, CAUSAL_STRIDE);
      simdgroup_load(b, tile + step * CAUSAL_STRIDE + 8 * simd, CAUSAL_STRIDE);
      simdgroup_multiply_accumulate(sums[chunk], a, b, sums[chunk]);
    }
  }
}
/* Writes 8 rows of sums, each divided by its place in `by` if it divides, through the own rows' memory. No null: 0 is an address of threadgroup memory. */
static inline void put_rows(device float* to, uint buffer, ulong wide, thread simdgroup_float8x8* sums, threadgroup float* own, uint stride, bool divides,
                            threadgroup const float* by, uint r0, uint length, uint chunks, uint head_dim, uint thread_index, uint simd) {
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (uint chunk = 0; chunk < CAUSAL_CHUNKS; chunk++)
    if (chunk < chunks) simdgroup_store(sums[chunk], own + chunk * CAUSAL_BLOCK + 8 * simd, stride);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (uint i = thread_index; i < CAUSAL_OWN * head_dim; i += CAUSAL_THREADS) {
    const uint r = i / head_dim, e = i % head_dim;
    if (r0 + r < length) put(to, ulong(r0 + r) * wide + e, buffer, divides ? own[r * stride + e] / by[r] : own[r * stride + e]);
  }
}

/* What rounding took from the rows that put_rows has written to `buffer` from `own`. */
static inline void put_rests(device float* rest, uint rest_buffer, uint buffer, ulong wide, threadgroup const float* own, uint stride, threadgroup const float* by,
                             uint r0, uint length, uint head_dim, uint thread_index) {
  for (uint i = thread_index; i < CAUSAL_OWN * head_dim; i += CAUSAL_THREADS) {
    const uint r = i / head_dim, e = i % head_dim;
    const float v = own[r * stride + e] / by[r];
    if (r0 + r < length) put(rest, ulong(r0 + r) * wide + e, rest_buffer, is_half(buffer) ? v - bf16_value(bf16_bits(v)) : 0.0f);
  }
}

kernel void causal_forward(device float* y [[buffer(0)]], device float* lse [[buffer(1)]], device const float* q [[buffer(2)]],
                           device const float* k [[buffer(3)]], device const float* v [[buffer(4)]], device const float* sinks [[buffer(5)]],
                           device const int* first [[buffer(6)]], constant CausalParams& p [[buffer(7)]], device float* rest [[buffer(8)]],
                           threadgroup float* own [[threadgroup(0)]], uint3 group [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]],
                           uint lane [[thread_index_in_simdgroup]], uint simd [[simdgroup_index_in_threadgroup]]) {
  threadgroup float tile[CAUSAL_BLOCK * CAUSAL_STRIDE];
  threadgroup float scores[CAUSAL_OWN * CAUSAL_STRIDE];
  threadgroup float shrinks[CAUSAL_OWN * CAUSAL_OWN];
  threadgroup float most[CAUSAL_OWN];
  threadgroup float total[CAUSAL_OWN];
  const uint r0 = group.x * CAUSAL_OWN, head = group.y, sequence = group.z, E = p.head_dim;
  const uint chunks = (E + CAUSAL_BLOCK - 1) / CAUSAL_BLOCK, stride = chunks * CAUSAL_BLOCK + 4;
  const ulong wide = ulong(p.heads) * E, narrow = ulong(p.kv_heads) * E, base = ulong(sequence) * p.length;
  const uint kv = head / (p.heads / p.kv_heads);
  device const float* keys = numbers_from(k, base * narrow + kv * E, 3);
  device const float* values = numbers_from(v, base * narrow + kv * E, 4);
  stage_own(own, stride, numbers_from(q, base * wide + head * E, 2), 2, wide, r0, p.length, chunks, E, thread_index);
  if (thread_index < CAUSAL_OWN) {
    most[thread_index] = HAS_SINKS ? sinks[head] : -INFINITY;
    total[thread_index] = HAS_SINKS ? 1.0f : 0.0f;
  }
  if (thread_index < 64) shrinks[thread_index] = 0.0f;
  uint begin = r0;
  for (uint r = r0; r < min(r0 + CAUSAL_OWN, p.length); r++) begin = min(begin, first_seen(first, p, sequence, r));
  simdgroup_float8x8 sums[CAUSAL_CHUNKS];
  for (uint i = 0; i < CAUSAL_CHUNKS; i++) sums[i] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
  for (uint k0 = begin / CAUSAL_BLOCK * CAUSAL_BLOCK; k0 < min(r0 + CAUSAL_OWN, p.length); k0 += CAUSAL_BLOCK) {
    products(scores, own, stride, tile, keys, 3, narrow, k0, p.length, chunks, E, thread_index, simd);
    for (uint r = simd; r < CAUSAL_OWN; r += 4) {
      const uint row = r0 + r, key = k0 + lane;
      bool seen = row < p.length && key <= row;
      if (seen) seen = key >= first_seen(first, p, sequence, row);
      const float score = seen ? capped(scores[r * CAUSAL_STRIDE + lane], p) : -INFINITY;
      const float before = most[r], largest = max(before, simd_max(score));
      const float weight = seen ? exp(score - largest) : 0.0f;
      const float shrink = largest == before ? 1.0f : exp(before - largest), sum = simd_sum(weight);
      scores[r * CAUSAL_STRIDE + lane] = weight;
      simdgroup_barrier(mem_flags::mem_threadgroup);
      if (lane == 0) {
        most[r] = largest;
        total[r] = total[r] * shrink + sum;
        shrinks[r * 9] = shrink;
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    simdgroup_float8x8 diagonal;
    simdgroup_load(diagonal, shrinks, 8);
    for (uint i = 0; i < CAUSAL_CHUNKS; i++)
      if (i < chunks) simdgroup_multiply(sums[i], diagonal, sums[i]);
    accumulate(sums, scores, tile, values, 4, narrow, k0, p.length, chunks, E, thread_index, simd);
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
  put_rows(places_from(y, base * wide + head * E, 0), 0, wide, sums, own, stride, true, total, r0, p.length, chunks, E, thread_index, simd);
  if (HAS_REST) put_rests(places_from(rest, base * wide + head * E, 8), 8, 0, wide, own, stride, total, r0, p.length, E, thread_index);
  if (thread_index < CAUSAL_OWN && r0 + thread_index < p.length)
    lse[(base + r0 + thread_index) * p.heads + head] = most[thread_index] + log(total[thread_index]);
}

/* deltas [rows,heads] = dy.(y + rest); a simdgroup has one. */
kernel void causal_deltas(device float* deltas [[buffer(0)]], device const float* dy [[buffer(1)]], device const float* y [[buffer(2)]],
                          constant CausalParams& p [[buffer(3)]], device const float* rest [[buffer(4)]],
                          uint2 group [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]]) {
  const ulong at = (ulong(group.y) * p.heads + group.x) * p.head_dim;
  float sum = 0.0f;
  for (uint e = lane; e < p.head_dim; e += 32) {
    float made = number(y, at + e, 2);
    if (HAS_REST) made += number(rest, at + e, 4);
    sum = fma(number(dy, at + e, 1), made, sum);
  }
  sum = simd_sum(sum);
  if (lane == 0) deltas[ulong(group.y) * p.heads + group.x] = sum;
}
/* dsinks[h] -= sum over rows of exp(sink - lse) D; a simdgroup has a head, a lane's rows are lane, lane + 32, ... */
kernel void causal_dsinks(device float* dsinks [[buffer(0)]], device const float* deltas [[buffer(1)]], device const float* lse [[buffer(2)]],
                          device const float* sinks [[buffer(3)]], constant CausalParams& p [[buffer(4)]],
                          uint head [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]]) {
  float sum = 0.0f;
  for (uint row = lane; row < p.sequences * p.length; row += 32) {
    const ulong at = ulong(row) * p.heads + head;
    sum += exp(sinks[head] - lse[at]) * deltas[at];
  }
  sum = simd_sum(sum);
  if (lane == 0) dsinks[head] = dsinks[head] - sum;
}

/* p and ds of one row and key, from products q.k and dy.v; zeros where the row does not see the key. */
static inline float2 weight_and_slope(float score, float above, bool seen, float lse, float delta, constant CausalParams& p) {
  if (!seen) return float2(0.0f, 0.0f);
  const float s = capped(score, p), weight = exp(s - lse);
  float slope = p.scale;
  if (SOFTCAP) slope = slope * (1.0f - s * s / (p.softcap * p.softcap));
  return float2(weight, weight * (above - delta) * slope);
}

kernel void causal_dq(device float* dq [[buffer(0)]], device const float* dy [[buffer(1)]], device const float* q [[buffer(2)]],
                      device const float* k [[buffer(3)]], device const float* v [[buffer(4)]], device const float* lse [[buffer(5)]],
                      device const float* deltas [[buffer(6)]], device const int* first [[buffer(7)]], constant CausalParams& p [[buffer(8)]],
                      threadgroup float* own [[threadgroup(0)]], uint3 group [[threadgroup_position_in_grid]],
                      uint thread_index [[thread_index_in_threadgroup]], uint simd [[simdgroup_index_in_threadgroup]]) {
  threadgroup float tile[CAUSAL_BLOCK * CAUSAL_STRIDE];
  threadgroup float scores[CAUSAL_OWN * CAUSAL_STRIDE];
  threadgroup float above[CAUSAL_OWN * CAUSAL_STRIDE];
  const uint r0 = group.x * CAUSAL_OWN, head = group.y, sequence = group.z, E = p.head_dim;
  const uint chunks = (E + CAUSAL_BLOCK - 1) / CAUSAL_BLOCK, stride = chunks * CAUSAL_BLOCK + 4;
  const ulong wide = ulong(p.heads) * E, narrow = ulong(p.kv_heads) * E, base = ulong(sequence) * p.length;
  const uint kv = head / (p.heads / p.kv_heads);
  threadgroup float* gradients = own + CAUSAL_OWN * stride;
  device const float* keys = numbers_from(k, base * narrow + kv * E, 3);
  device const float* of_values = numbers_from(v, base * narrow + kv * E, 4);
  stage_own(own, stride, numbers_from(q, base * wide + head * E, 2), 2, wide, r0, p.length, chunks, E, thread_index);
  stage_own(gradients, stride, numbers_from(dy, base * wide + head * E, 1), 1, wide, r0, p.length, chunks, E, thread_index);
  uint begin = r0;
  for (uint r = r0; r < min(r0 + CAUSAL_OWN, p.length); r++) begin = min(begin, first_seen(first, p, sequence, r));
  simdgroup_float8x8 sums[CAUSAL_CHUNKS];
  for (uint i = 0; i < CAUSAL_CHUNKS; i++) sums[i] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
  for (uint k0 = begin / CAUSAL_BLOCK * CAUSAL_BLOCK; k0 < min(r0 + CAUSAL_OWN, p.length); k0 += CAUSAL_BLOCK) {
    products(scores, own, stride, tile, keys, 3, narrow, k0, p.length, chunks, E, thread_index, simd);
    products(above, gradients, stride, tile, of_values, 4, narrow, k0, p.length, chunks, E, thread_index, simd);
    for (uint i = thread_index; i < CAUSAL_OWN * CAUSAL_BLOCK; i += CAUSAL_THREADS) {
      const uint row = r0 + i / CAUSAL_BLOCK, key = k0 + i % CAUSAL_BLOCK, at = i / CAUSAL_BLOCK * CAUSAL_STRIDE + i % CAUSAL_BLOCK;
      bool seen = row < p.length && key <= row;
      if (seen) seen = key >= first_seen(first, p, sequence, row);
      const ulong place = (base + min(row, p.length - 1)) * p.heads + head;
      scores[at] = weight_and_slope(scores[at], above[at], seen, lse[place], deltas[place], p).y;
    }
    accumulate(sums, scores, tile, keys, 3, narrow, k0, p.length, chunks, E, thread_index, simd);
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
  put_rows(places_from(dq, base * wide + head * E, 0), 0, wide, sums, own, stride, false, own, r0, p.length, chunks, E, thread_index, simd);
}

kernel void causal_dkv(device float* dk [[buffer(0)]], device float* dv [[buffer(1)]], device const float* dy [[buffer(2)]],
                       device const float* q [[buffer(3)]], device const float* k [[buffer(4)]], device const float* v [[buffer(5)]],
                       device const float* lse [[buffer(6)]], device const float* deltas [[buffer(7)]], device const int* first [[buffer(8)]],
                       constant CausalParams& p [[buffer(9)]], threadgroup float* own [[threadgroup(0)]],
                       uint3 group [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]],
                       uint simd [[simdgroup_index_in_threadgroup]]) {
  threadgroup float tile[CAUSAL_BLOCK * CAUSAL_STRIDE];
  threadgroup float scores[CAUSAL_OWN * CAUSAL_STRIDE];
  threadgroup float above[CAUSAL_OWN * CAUSAL_STRIDE];
  const uint k0 = group.x * CAUSAL_OWN, kv = group.y, sequence = group.z, E = p.head_dim, heads = p.heads / p.kv_heads;
  const uint chunks = (E + CAUSAL_BLOCK - 1) / CAUSAL_BLOCK, stride = chunks * CAUSAL_BLOCK + 4;
  const ulong wide = ulong(p.heads) * E, narrow = ulong(p.kv_heads) * E, base = ulong(sequence) * p.length;
  threadgroup float* values = own + CAUSAL_OWN * stride;
  stage_own(own, stride, numbers_from(k, base * narrow + kv * E, 4), 4, narrow, k0, p.length, chunks, E, thread_index);
  stage_own(values, stride, numbers_from(v, base * narrow + kv * E, 5), 5, narrow, k0, p.length, chunks, E, thread_index);
  simdgroup_float8x8 of_keys[CAUSAL_CHUNKS], of_values[CAUSAL_CHUNKS];
  for (uint i = 0; i < CAUSAL_CHUNKS; i++) {
    of_keys[i] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    of_values[i] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
  }
  for (uint head = kv * heads; head < (kv + 1) * heads; head++)
    for (uint r0 = k0 / CAUSAL_BLOCK * CAUSAL_BLOCK; r0 < p.length; r0 += CAUSAL_BLOCK) {
      if (p.window > 0 && r0 + 1 > p.window + k0 + CAUSAL_OWN) break;
      device const float* rows = numbers_from(q, base * wide + head * E, 3);
      device const float* gradients = numbers_from(dy, base * wide + head * E, 2);
      products(scores, own, stride, tile, rows, 3, wide, r0, p.length, chunks, E, thread_index, simd);
      products(above, values, stride, tile, gradients, 2, wide, r0, p.length, chunks, E, thread_index, simd);
      for (uint i = thread_index; i < CAUSAL_OWN * CAUSAL_BLOCK; i += CAUSAL_THREADS) {
        const uint key = k0 + i / CAUSAL_BLOCK, row = r0 + i % CAUSAL_BLOCK, at = i / CAUSAL_BLOCK * CAUSAL_STRIDE + i % CAUSAL_BLOCK;
        bool seen = row < p.length && key <= row;
        if (seen) seen = key >= first_seen(first, p, sequence, row);
        const ulong place = (base + min(row, p.length - 1)) * p.heads + head;
        const float2 both = weight_and_slope(scores[at], above[at], seen, lse[place], deltas[place], p);
        scores[at] = both.x;
        above[at] = both.y;
      }
      accumulate(of_values, scores, tile, gradients, 2, wide, r0, p.length, chunks, E, thread_index, simd);
      accumulate(of_keys, above, tile, rows, 3, wide, r0, p.length, chunks, E, thread_index, simd);
      threadgroup_barrier(mem_flags::mem_threadgroup);
    }
  put_rows(places_from(dk, base * narrow + kv * E, 0), 0, narrow, of_keys, own, stride, false, own, k0, p.length, chunks, E, thread_index, simd);
  put_rows(places_from(dv, base * narrow + kv * E, 1), 1, narrow, of_values, own, stride, false, own, k0, p.length, chunks, E, thread_index, simd);
}
