/*
 * Matrix products of many rows on tensor cores (prefill): what psi_matmul, psi_moe_matmul and psi_moe_glu call for them.
 *
 * x is bf16 as round.cuh makes it from f32, a row rounded_columns<W>(columns) elements, x aligned to 16 bytes; w is in CUDA layout
 * (weights.cuh); y f32. A value's bits depend on its row of x and its row of w alone: the sum over columns runs in the
 * order that decode's kernels use, whatever the number of rows, the tile or the instruction.
 *
 * The templates are instantiated per weight type in product_<type>.cu.
 */
#pragma once
#include "../common/types.h"

namespace psi {

/* Which slots belong to which expert, in device memory: offsets i32 [experts + 1]; expert e has the slots
   sorted[offsets[e]] ... sorted[offsets[e + 1] - 1]. sorted i32 [slots]. */
struct ProductGroups {
  const i32* offsets;
  const i32* sorted;
  i32 experts;
  i32 slots;
  i32 used; /* slot s reads row s / used of x: the experts of a token, or 1 where x has a row per slot */
};

/* The gated activation of psi_glu: kind 0 silu, 1 gelu (tanh form), 2 clamped. */
struct ProductGate {
  i32 kind;
  float alpha, limit;
};

/* All that a product is, for the kernels. */
struct ProductArguments {
  float* y;
  const u16* x;
  const u8* w;
  const float* bias; /* or null */
  i32 rows;          /* of y */
  i32 outputs;       /* rows of a matrix in w; with a gate twice the columns of y */
  i32 columns;
  ProductGroups groups; /* offsets null: one matrix, row r of y from row r of x */
  ProductGate gate;     /* kind -1: none */
};

/* `op` names the caller in errors. */
template <class W>
i32 product(const char* op, const ProductArguments& arguments);

/* y [rows, outputs] = x [rows, columns] . w [outputs, columns] (+ bias [outputs]) */
template <class W>
i32 product_dense(const char* op, float* y, const u16* x, const u8* w, const float* bias, i32 rows, i32 outputs, i32 columns) {
  return product<W>(op, {y, x, w, bias, rows, outputs, columns, {nullptr, nullptr, 0, 0, 1}, {-1, 0, 0}});
}

/* y [slots, outputs]: slot s = x[s / used] . w[expert of s] (+ bias [experts, outputs]) */
template <class W>
i32 product_grouped(const char* op, float* y, const u16* x, const u8* w, const float* bias, const ProductGroups& groups, i32 outputs,
                    i32 columns) {
  return product<W>(op, {y, x, w, bias, groups.slots, outputs, columns, groups, {-1, 0, 0}});
}

/* y [slots, features] = act(gate, up), (gate, up) = x[s / used] . w[expert of s] (+ bias [experts, 2 features]); w is
   [2 features, columns] with the gate's rows first, features a multiple of 16. Bits of product_grouped, then psi_glu. */
template <class W>
i32 product_grouped_glu(const char* op, float* y, const u16* x, const u8* w, const float* bias, const ProductGroups& groups,
                        const ProductGate& gate, i32 features, i32 columns) {
  return product<W>(op, {y, x, w, bias, groups.slots, 2 * features, columns, groups, gate});
}

}  // namespace psi
