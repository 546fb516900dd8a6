/*
 * The product of packed weights with rows of activations, shared by matmul and moe_matmul (implementation: product.cpp).
 *
 * Quantised weights: each block of 32 activations is rounded once to s8 with an f32 scale (InputBlock), or to 16 bits in
 * two parts, q = 256 * upper + lower, whose products are put together before they are scaled. One pair of
 * input row and output is always accumulated by the same operations in the same order, block by block:
 *   acc = fma(f32(start + sum_k code*q) * scale, d, acc)   and with a second term   acc = fma(min, dsum, acc)
 * (twice a block where a type has scales per 16), so its bits do not depend on the rows beside it, on the tile shape
 * or on the thread. Float weights: acc = fma(w[k], x[k], acc) in order of k, all in f32.
 */
#pragma once
#include "../common/isa.h"

namespace psi {

/* 32 activations: x[i] ~ d * q[i]. start[h] = -bias * (sum of q), dsum[h] = d * (sum of q), over the whole block
   (h = 0) or over its halves, as the weight type needs. Of two parts, the upper one's d and dsum are not set and the lower
   one's are those of the whole. */
struct alignas(64) InputBlock {
  i8 q[32];
  float d;
  i32 start[2];
  float dsum[2];
  i32 unused[3];
};

struct ProductTask {
  float* y;             /* row s starts at y + s*outputs */
  const float* x;       /* float weights: row r at x + r*columns */
  const InputBlock* in; /* block weights: as quantize_inputs leaves them */
  const u8* panels;     /* of one matrix */
  const float* bias;    /* [outputs] or null */
  const i32* slots;     /* output rows to compute, or null for first_row, first_row+1, ... */
  u8* scratch;          /* THREAD_SCRATCH bytes */
  i64 first_row, rows, outputs, columns, input_rows;
  i64 first_panel, panel_count;
  i32 dtype;
  i32 slots_per_input; /* input row = slot / slots_per_input */
  i32 parts;           /* of an activation: 1, or 2 of `in`'s rows one after the other */
};

}  // namespace psi

PSI_DOT_KERNEL(product, const psi::ProductTask& task)
/* product() for float weights, which it calls. */
PSI_DOT_KERNEL(float_product, const psi::ProductTask& task)
/* Fills in, rows*parts*columns/32 blocks, for weights of block type dtype: pieces of 512 columns one after the other, in each
   [rows][parts][16 blocks] (fewer in the last), so that the rows of a piece are one stream. */
PSI_DOT_KERNEL(quantize_inputs, psi::InputBlock* in, const float* x, i64 rows, i64 columns, i32 dtype, int parts)
