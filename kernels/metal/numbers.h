/*
 * Tensors of training: f32, or bf16 where HALVES has the bit of their buffer's index. `buffer` is that index, known when the
 * pipeline is made, so that one of the two forms remains. Launchers: psi_read_numbers, psi_write_numbers of train.h.
 */
#pragma once
#include "weights.h"

constant uint HALVES [[function_constant(23)]];

static inline bool is_half(uint buffer) { return (HALVES >> buffer & 1) != 0; }
static inline float number(device const float* p, ulong i, uint buffer) {
  return is_half(buffer) ? bf16_value(((device const ushort*)p)[i]) : p[i];
}
static inline void put(device float* p, ulong i, uint buffer, float v) {
  if (is_half(buffer)) ((device ushort*)p)[i] = ushort(bf16_bits(v));
  else p[i] = v;
}
/* The tensor from element i on. */
static inline device const float* numbers_from(device const float* p, ulong i, uint buffer) {
  return is_half(buffer) ? (device const float*)((device const ushort*)p + i) : p + i;
}
static inline device float* places_from(device float* p, ulong i, uint buffer) {
  return is_half(buffer) ? (device float*)((device ushort*)p + i) : p + i;
}
