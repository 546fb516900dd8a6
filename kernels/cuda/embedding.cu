/*
 * y[t] = scale * table[ids[t]], f32 [tokens, width]. A table in file layout gives psi_dequantize's values, a packed one
 * those of the products: rounded to bf16 (F32: as it is). A thread per weight; ids outside the table give NaN.
 */
#include "file_block.cuh"
#include "weights.cuh"

namespace psi {

constexpr int EMBEDDING_THREADS = 256;

__global__ void file_embedding_kernel(float* y, const u8* table, const i32* ids, i32 width, i32 vocabulary, i32 dtype, i64 row_bytes, float scale) {
  let_next_start();
  wait_for_inputs();
  const i32 k = blockIdx.y * EMBEDDING_THREADS + threadIdx.x, id = ids[blockIdx.x];
  if (k >= width) return;
  const bool known = (u32)id < (u32)vocabulary;
  y[(i64)blockIdx.x * width + k] = known ? __fmul_rn(scale, file_value(dtype, table + id * row_bytes, k)) : __uint_as_float(0x7fffffff);
}

template <class W>
__global__ void packed_embedding_kernel(float* y, const u8* table, const i32* ids, i32 width, i32 vocabulary, float scale) {
  let_next_start();
  wait_for_inputs();
  const i32 k = blockIdx.y * EMBEDDING_THREADS + threadIdx.x, id = ids[blockIdx.x];
  if (k >= width) return;
  float v = __uint_as_float(0x7fffffff);
  if ((u32)id < (u32)vocabulary) {
    const i32 units = PSI_DIVIDE_UP(width, 64), row = id % 16, column = k % 16;
    typename W::Raw raw;
    W::load(raw, table + (i64)(id / 16) * W::tile_bytes(units), units, k / 64, row % 8 * 4 + column % 8 / 2);
    u32 pair = 0;
#pragma unroll
    for (int step = 0; step < 4; step++) {
      u32 a[4];
      W::fragment(raw, step, a);
#pragma unroll
      for (int i = 0; i < 4; i++)
        if (step == k % 64 / 16 && i == row / 8 + column / 8 * 2) pair = a[i];
    }
    v = __fmul_rn(scale, column % 2 ? bf16_high(pair) : bf16_low(pair));
  }
  y[(i64)blockIdx.x * width + k] = v;
}

}  // namespace psi

PSI_API i32 psi_embedding(void* y, const void* table, const void* ids, i32 tokens, i32 width, i32 vocabulary, i32 dtype, f32 scale) {
  using namespace psi;
  if (!y || !table || !ids) return fail(PSI_INVALID, "[psi_embedding] expected non-null pointers.");
  if (tokens < 0 || width < 1 || vocabulary < 1)
    return fail(PSI_INVALID, "[psi_embedding] expected tokens >= 0, width >= 1, vocabulary >= 1, got %d, %d, %d.", tokens, width, vocabulary);
  const i32 id = dtype & ~PSI_PACKED;
  const TypeInfo* type;
  PSI_TRY(check_weight_type("psi_embedding", id, width, &type));
  if (id == F64) return fail(PSI_UNSUPPORTED, "[psi_embedding] expected a table of another type than F64 on CUDA.");
  const dim3 grid((unsigned)tokens, (unsigned)PSI_DIVIDE_UP(width, EMBEDDING_THREADS));
  if (dtype & PSI_PACKED && id != F32)
    return with_weight_type("psi_embedding", id, [&](auto w) {
      return launch("psi_embedding", packed_embedding_kernel<decltype(w)>, grid, dim3(EMBEDDING_THREADS), 0, (float*)y, (const u8*)table,
                    (const i32*)ids, width, vocabulary, scale);
    });
  return launch("psi_embedding", file_embedding_kernel, grid, dim3(EMBEDDING_THREADS), 0, (float*)y, (const u8*)table, (const i32*)ids, width,
                vocabulary, id, row_bytes(*type, width), scale);
}
