/*
 * Arranges raw rows of a file into the tiles of weights.cuh. A warp makes one unit of a tile: each lane gathers its 32
 * weights' codes, lanes 0 to 15 write the scales of one row each. Rows and columns past the end become zeros by scales of
 * zero. F32 stays as it is: rows one after the other.
 */
#include "pack.h"

#include "file_block.cuh"
#include "weights.cuh"

namespace psi {

constexpr int PACK_WARPS = 4;

/* What a lane needs to find weight (step, j) of its unit: its row in the file, null past the last, and its column. */
struct PackPlace {
  const u8* row[2]; /* g and g + 8 */
  i32 column;       /* of step 0, weight 0 */
  i32 columns;
  __device__ bool given(int step, int j) const { return row[j / 2 % 2] && at(step, j) < columns; }
  __device__ i32 at(int step, int j) const { return column + step * 16 + j % 2 + j / 4 * 8; }
};

template <class W>
__device__ u32 place_code(const PackPlace& p, int step, int j) {
  return p.given(step, j) ? file_code(W::ID, p.row[j / 2 % 2], p.at(step, j)) : 0;
}

/* bf16 values of a step, as the fragment has them. */
template <int ID>
__device__ void pack_codes(FloatWeight<ID>, const PackPlace& p, u8* tile, i32, i32 unit, i32 lane) {
  for (int step = 0; step < 4; step++)
    for (int i = 0; i < 4; i++) {
      float v[2];
      for (int half = 0; half < 2; half++) v[half] = p.given(step, 2 * i + half) ? file_value(ID, p.row[i % 2], p.at(step, 2 * i + half)) : 0.0f;
      ((u32*)(tile + (i64)unit * FloatWeight<ID>::CODE_BYTES + step * 512 + lane * 16))[i] = pack_bf16(v[0], v[1]);
    }
}

__device__ void pack_codes(WeightMXFP4, const PackPlace& p, u8* tile, i32, i32 unit, i32 lane) {
  for (int step = 0; step < 4; step++) {
    u32 word = 0;
    for (int j = 0; j < 8; j++) {
      u32 c = place_code<WeightMXFP4>(p, step, j);
      word |= (c & 7) << WeightMXFP4::magnitude_bit(j) | c >> 3 << WeightMXFP4::sign_bit(j);
    }
    ((u32*)(tile + (i64)unit * WeightMXFP4::CODE_BYTES + lane * 16))[step] = word;
  }
}

template <int ID, int LOW, int HIGH, int BIAS, bool LEVELS, class S, bool RECORDS>
__device__ void pack_codes(CodedWeight<ID, LOW, HIGH, BIAS, LEVELS, S, RECORDS>, const PackPlace& p, u8* tile, i32 units, i32 unit, i32 lane) {
  using W = CodedWeight<ID, LOW, HIGH, BIAS, LEVELS, S, RECORDS>;
  u8* low = tile + (i64)unit * W::LOW_BYTES;
  u8* high = tile + (i64)units * W::LOW_BYTES + (i64)unit * W::HIGH_BYTES;
  for (int step = 0; step < 4; step++) {
    u32 words[2] = {}, bits = 0;
    for (int j = 0; j < 8; j++) {
      u32 c = place_code<W>(p, step, j);
      bits |= (c >> LOW) << (HIGH * j);
      if (LOW == 8) words[j / 4] |= c << (8 * (j % 4));
      if (LOW == 4) words[0] |= (c & 15) << (j < 4 ? 8 * j : 8 * (j - 4) + 4);
      if (LOW == 2) words[0] |= (c & 3) << (2 * j);
    }
    if (LOW == 8) {
      u32* at = (u32*)(low + step / 2 * 512 + lane * 16) + step % 2 * 2;
      at[0] = words[0], at[1] = words[1];
    }
    if (LOW == 4) ((u32*)(low + lane * 16))[step] = words[0];
    if (LOW == 2) ((u16*)(low + lane * 8))[step] = (u16)words[0];
    if (HIGH == 1) high[lane * 4 + step] = (u8)bits;
    if (HIGH == 2) ((u16*)(high + lane * 8))[step] = (u16)bits;
  }
}

/* The 16-bit scales of a 32-element block; 0 past the end. */
__device__ u32 block_half(const u8* row, i32 block, i32 blocks, int bytes, int at) {
  return row && block < blocks ? file_u16(row + (i64)block * bytes + at) : 0;
}

template <int ID>
__device__ void pack_scales(FloatWeight<ID>, const u8*, u8*, i32, i32, i32, i32) {}

__device__ void pack_scales(WeightMXFP4, const u8* row, u8* tile, i32 units, i32 unit, i32 r, i32 columns) {
  u8* to = tile + WeightMXFP4::scales_at(units) + (i64)unit * WeightMXFP4::SCALE_BYTES + r % 8 * 4 + r / 8 * 2;
  for (int i = 0; i < 2; i++) to[i] = (u8)WeightMXFP4::scale_byte(row && unit * 2 + i < columns / 32 ? row[(i64)(unit * 2 + i) * 17] : 127);
}

/* Small scales of the record of 256 columns that the unit is in, as ScalesRecord has them. */
template <int ID>
__device__ u32 record_scales(const u8* b, int quarter) {
  u32 word = 0;
  for (int i = 0; i < 4; i++) {
    const int s = quarter * 4 + i, j = quarter * 2 + i / 2; /* numbers of 16 and of 32 columns */
    u32 v = 0;
    if (ID == Q2_K) v = b[s];
    if (ID == Q3_K) v = (u8)q3_scale(b, s);
    if (ID == Q6_K) v = b[192 + s];
    if (ID == IQ4_XS) v = i % 2 ? 0 : (u8)iq4_scale(b, j);
    if (ID == Q4_K || ID == Q5_K) v = i % 2 ? k_min(b + 4, j) : k_scale(b + 4, j);
    word |= v << (8 * i);
  }
  return word;
}

template <int ID, int LOW, int HIGH, int BIAS, bool LEVELS, class S, bool RECORDS>
__device__ void pack_scales(CodedWeight<ID, LOW, HIGH, BIAS, LEVELS, S, RECORDS>, const u8* row, u8* tile, i32 units, i32 unit, i32 r, i32 columns) {
  using W = CodedWeight<ID, LOW, HIGH, BIAS, LEVELS, S, RECORDS>;
  u32* to = (u32*)(tile + W::scales_at(units) + (i64)unit * W::SCALE_BYTES + r * S::BYTES);
  if constexpr (RECORDS) {
    constexpr int BYTES = ID == Q2_K ? 84 : ID == Q3_K ? 110 : ID == Q4_K ? 144 : ID == Q5_K ? 176 : ID == Q6_K ? 210 : 136;
    const u8* b = row && unit * 64 < columns ? row + (i64)(unit / 4) * BYTES : nullptr;
    *to = b ? record_scales<ID>(b, unit % 4) : 0;
    if (unit % 4 != 0) return;
    constexpr int D = ID == Q2_K ? 80 : ID == Q3_K ? 108 : ID == Q6_K ? 208 : 0, DMIN = ID == Q2_K ? 82 : 2;
    u32 both = b ? file_u16(b + D) | (S::MINS ? file_u16(b + DMIN) << 16 : 0) : 0;
    ((u32*)(tile + W::records_at(units) + (i64)(unit / 4) * 64))[r] = both;
  } else {
    constexpr int BYTES = ID == Q8_0 ? 34 : ID == Q4_1 ? 20 : ID == Q5_0 ? 22 : ID == Q5_1 ? 24 : 18;
    const i32 blocks = columns / 32;
    to[0] = block_half(row, unit * 2, blocks, BYTES, 0) | block_half(row, unit * 2 + 1, blocks, BYTES, 0) << 16;
    if constexpr (S::MINS) to[1] = block_half(row, unit * 2, blocks, BYTES, 2) | block_half(row, unit * 2 + 1, blocks, BYTES, 2) << 16;
  }
}

template <class W>
__global__ void __launch_bounds__(32 * PACK_WARPS) pack_kernel(u8* destination, const u8* raw, i64 row_bytes, i32 rows, i32 columns, i32 units) {
  let_next_start();
  wait_for_inputs();
  const i32 lane = threadIdx.x % 32, unit = blockIdx.y * PACK_WARPS + threadIdx.x / 32, first = blockIdx.x * 16;
  if (unit >= units) return;
  u8* tile = destination + (i64)blockIdx.x * W::tile_bytes(units);
  auto row_at = [&](i32 r) { return first + r < rows ? raw + (i64)(first + r) * row_bytes : nullptr; };
  const PackPlace place = {{row_at(lane / 4), row_at(lane / 4 + 8)}, unit * 64 + lane % 4 * 2, columns};
  pack_codes(W{}, place, tile, units, unit, lane);
  if (lane < 16) pack_scales(W{}, row_at(lane), tile, units, unit, lane, columns);
}

i32 pack_on_device(void* destination, const void* raw, i32 rows, i32 columns, i32 dtype) {
  const TypeInfo* type;
  PSI_TRY(check_weight_type("psi_pack", dtype, columns, &type));
  const i64 bytes = row_bytes(*type, columns);
  if (dtype == F32) {
    cudaError_t error = cudaMemcpyAsync(destination, raw, (size_t)(rows * bytes), cudaMemcpyDeviceToDevice, stream);
    return error == cudaSuccess ? PSI_OK : cuda_failed("psi_pack", error);
  }
  const i32 units = PSI_DIVIDE_UP(columns, 64);
  return with_weight_type("psi_pack", dtype, [&](auto w) {
    const dim3 grid((unsigned)PSI_DIVIDE_UP(rows, 16), (unsigned)PSI_DIVIDE_UP(units, PACK_WARPS));
    return launch("psi_pack", pack_kernel<decltype(w)>, grid, dim3(32 * PACK_WARPS), 0, (u8*)destination, (const u8*)raw, bytes, rows, columns, units);
  });
}

}  // namespace psi

PSI_API i32 psi_packed_bytes(void* bytes, i32 rows, i32 columns, i32 dtype) {
  using namespace psi;
  const TypeInfo* type;
  if (!bytes || rows < 1 || columns < 1) return fail(PSI_INVALID, "[psi_packed_bytes] expected a result place, rows and columns from 1, got %d and %d.", rows, columns);
  PSI_TRY(check_weight_type("psi_packed_bytes", dtype, columns, &type));
  i64 size = aligned64(rows * row_bytes(*type, columns));
  if (dtype != F32)
    PSI_TRY(with_weight_type("psi_packed_bytes", dtype, [&](auto w) {
      size = PSI_DIVIDE_UP(rows, 16) * decltype(w)::tile_bytes(PSI_DIVIDE_UP(columns, 64));
      return PSI_OK;
    }));
  f64 result = (f64)size;
  memcpy(bytes, &result, sizeof result);
  return PSI_OK;
}
