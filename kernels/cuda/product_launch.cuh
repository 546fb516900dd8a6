/*
 * Chooses the kernel and the size of tile for a product. The choice changes the time, never a bit.
 */
#pragma once
#include "product_wgmma.cuh"

namespace psi {

/* Hopper's kernel; PSIONIC_CUDA_WGMMA=0 turns to mma.sync there too, to compare the two. */
inline const bool use_wgmma = [] {
  const char* value = getenv("PSIONIC_CUDA_WGMMA");
  return !value || strcmp(value, "0") != 0;
}();

/* What the kernels need to hold; the caller's own checks come first. */
inline i32 check_product(const char* op, const ProductArguments& p) {
  if (!p.y || !p.x || !p.w) return fail(PSI_INVALID, "[%s] expected non-null pointers.", op);
  if (p.rows < 0 || p.outputs < 1 || p.columns < 1)
    return fail(PSI_INVALID, "[%s] expected sizes from 1, got rows %d, outputs %d, columns %d.", op, p.rows, p.outputs, p.columns);
  if ((uintptr_t)p.x & 15) return fail(PSI_INVALID, "[%s] expected bf16 rows aligned to 16 bytes.", op);
  if (p.gate.kind > 2) return fail(PSI_INVALID, "[%s] expected kind 0, 1 or 2, got %d.", op, p.gate.kind);
  if (p.gate.kind >= 0 && p.outputs % 32 != 0)
    return fail(PSI_UNSUPPORTED, "[%s] expected gated features in multiples of 16, got %d.", op, p.outputs / 2);
  if (p.groups.offsets && (!p.groups.sorted || p.groups.experts < 1 || p.groups.used < 1))
    return fail(PSI_INVALID, "[%s] expected sorted slots, experts and used from 1.", op);
  return PSI_OK;
}

/* A kernel's tile and about how many multiply-adds it does in a cycle of a multiprocessor when nothing else limits it. */
struct ProductForm {
  int outputs, rows;
  double rate;
};

/* Cycles that a product takes in tiles of this form, roughly: the last round of tiles counts in full, and a unit takes as
   long as its sums or as its bytes from L2. */
inline double product_cycles(const ProductArguments& p, i32 units, i64 tile_bytes, const ProductForm& form) {
  constexpr double L2_BYTES = 24, TILE_CYCLES = 2000; /* per cycle; to begin and to end a tile */
  double row_tiles = p.groups.offsets ? (double)p.rows / form.rows + 0.5 * min(p.groups.experts, p.rows) : PSI_DIVIDE_UP(p.rows, form.rows);
  double rounds = ceil(row_tiles * PSI_DIVIDE_UP(p.outputs, form.outputs) / device.multiprocessors);
  double sums = (double)form.outputs * form.rows * PRODUCT_UNIT / form.rate;
  double bytes = form.outputs / 16 * ((double)tile_bytes / units) + form.rows * PRODUCT_ROW_BYTES;
  return rounds * (units * max(sums, bytes / L2_BYTES) + TILE_CYCLES);
}

template <class W>
i32 product(const char* op, const ProductArguments& arguments) {
  PSI_TRY(check_product(op, arguments));
  ProductArguments p = arguments;
  p.columns = rounded_columns<W>(p.columns); /* for the kernels those that x has */
  if (p.rows == 0) return PSI_OK;
  /* four warpgroups leave 128 registers a thread, too few for the types whose units take many */
  constexpr int WIDE = sizeof(typename W::Raw) > 32 ? 3 : 4;
  const ProductForm forms[] = {{64 * WIDE, 128, 1700}, {256, 64, 1250}, {128, 64, 1000}, {128, 128, 900}, {128, 64, 800}, {128, 32, 700}};
  constexpr int WGMMA_FORMS = 3, FORMS = 6;
  /* wgmma's kernel takes rows of whole 16-byte chunks */
  const bool wgmma = use_wgmma && device.compute == 90 && p.columns % 8 == 0;
  const i32 units = PSI_DIVIDE_UP(p.columns, PRODUCT_UNIT);
  const i64 tile_bytes = W::tile_bytes(units / W::PARTS) * W::PARTS; /* loaded with each part of x */
  int best = wgmma ? 0 : WGMMA_FORMS;
  for (int i = best + 1; i < FORMS; i++)
    if (product_cycles(p, units, tile_bytes, forms[i]) < product_cycles(p, units, tile_bytes, forms[best])) best = i;
  switch (best) {
    case 0: return launch_product_wgmma<W, WIDE, 128>(op, p);
    case 1: return launch_product_wgmma<W, 4, 64>(op, p);
    case 2: return launch_product_wgmma<W, 2, 64>(op, p);
    case 3: return launch_product_mma<W, 128>(op, p);
    case 4: return launch_product_mma<W, 64>(op, p);
    default: return launch_product_mma<W, 32>(op, p);
  }
}

}  // namespace psi
