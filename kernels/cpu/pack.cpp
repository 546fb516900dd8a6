/*
 * File layout [rows, columns] to panels of 16 rows (layout: common/panel.h). Every code of the file is kept, so the
 * packed matrix has the file's values exactly and, but for rounding a panel up to 64 bytes, its size. A task is a
 * panel; panels are split over the threads as psi_matmul splits them, so the pages land with their readers.
 */
#include "../common/half.h"
#include "../common/panel.h"
#include "../common/pool.h"

PSI_KERNEL(pack, u8* destination, const u8* source, i64 rows, i64 columns, i32 dtype)

namespace psi::PSI_ISA {

/* ---- codes of a file block in column order, one byte each ---- */

static void split_nibbles(u8* q, const u8* b) {
  for (int j = 0; j < 16; j++) {
    q[j] = b[j] & 15;
    q[j + 16] = b[j] >> 4;
  }
}
static void add_fifth_bits(u8* q, const u8* b) {
  u32 high;
  memcpy(&high, b, 4);
  for (int j = 0; j < 32; j++) q[j] = (u8)(q[j] | ((high >> j) & 1) << 4);
}

template <class T>
static void file_codes(u8* q, const u8* b) {
  if constexpr (T::ID == Q8_0) {
    for (int i = 0; i < 32; i++) q[i] = b[2 + i] ^ 128;
  } else if constexpr (T::ID == Q4_0 || T::ID == IQ4_NL) {
    split_nibbles(q, b + 2);
  } else if constexpr (T::ID == Q4_1) {
    split_nibbles(q, b + 4);
  } else if constexpr (T::ID == MXFP4) {
    split_nibbles(q, b + 1);
  } else if constexpr (T::ID == Q5_0) {
    split_nibbles(q, b + 6);
    add_fifth_bits(q, b + 2);
  } else if constexpr (T::ID == Q5_1) {
    split_nibbles(q, b + 8);
    add_fifth_bits(q, b + 4);
  } else if constexpr (T::ID == IQ4_XS) {
    for (int j = 0; j < 8; j++) split_nibbles(q + 32 * j, b + 8 + 16 * j);
  } else if constexpr (T::ID == Q2_K || T::ID == Q3_K) {
    const u8* low = T::ID == Q2_K ? b + 16 : b + 32;
    for (int g = 0; g < 8; g++)
      for (int l = 0; l < 32; l++) {
        int code = (low[32 * (g / 4) + l] >> (2 * (g % 4))) & 3;
        if (T::ID == Q3_K) code |= ((b[l] >> g) & 1) << 2;
        q[32 * g + l] = (u8)code;
      }
  } else if constexpr (T::ID == Q4_K || T::ID == Q5_K) {
    const u8* low = T::ID == Q4_K ? b + 16 : b + 48;
    for (int g = 0; g < 8; g++)
      for (int l = 0; l < 32; l++) {
        int code = (low[32 * (g / 2) + l] >> (g % 2 * 4)) & 15;
        if (T::ID == Q5_K) code |= ((b[16 + l] >> g) & 1) << 4;
        q[32 * g + l] = (u8)code;
      }
  } else {
    static_assert(T::ID == Q6_K, "a block type without an unpacking rule");
    for (int g = 0; g < 8; g++)
      for (int l = 0; l < 32; l++) {
        int low = (b[64 * (g / 4) + 32 * (g % 2) + l] >> (g % 4 / 2 * 4)) & 15;
        int high = (b[128 + 32 * (g / 4) + l] >> (2 * (g % 4))) & 3;
        q[32 * g + l] = (u8)(low | high << 4);
      }
  }
}

/* ---- scales ---- */

static void put_six_bits(u8* p, int count, int s, int row, int value) {
  u8* nibble = p + s % (count / 2) * 16 + row;
  u8* pair = p + count * 8 + s % (count / 4) * 16 + row;
  *nibble = (u8)(*nibble | (value & 15) << (s / (count / 2) * 4));
  *pair = (u8)(*pair | (value >> 4) << (s / (count / 4) * 2));
}

/* Row `row` of the (zeroed) scale record of one file block. */
template <class T>
static void put_scales(u8* record, int row, const u8* b) {
  u8* halves = record + 2 * row;
  if constexpr (T::ID == Q8_0 || T::ID == Q4_0 || T::ID == Q5_0 || T::ID == IQ4_NL) {
    memcpy(halves, b, 2);
  } else if constexpr (T::ID == Q4_1 || T::ID == Q5_1) {
    memcpy(halves, b, 2);
    memcpy(halves + 32, b + 2, 2);
  } else if constexpr (T::ID == MXFP4) {
    record[row] = b[0];
  } else if constexpr (T::ID == Q2_K) {
    memcpy(halves, b + 80, 2);
    memcpy(halves + 32, b + 82, 2);
    for (int s = 0; s < 16; s++) record[64 + 16 * s + row] = b[s];
  } else if constexpr (T::ID == Q3_K) {
    memcpy(halves, b + 108, 2);
    for (int s = 0; s < 16; s++) {
      int low = (s < 8 ? b[96 + s] : b[96 + s - 8] >> 4) & 15;
      put_six_bits(record + 32, 16, s, row, low | ((b[104 + s % 4] >> (2 * (s / 4))) & 3) << 4);
    }
  } else if constexpr (T::ID == Q4_K || T::ID == Q5_K) {
    memcpy(halves, b, 2);
    memcpy(halves + 32, b + 2, 2);
    const u8* s = b + 4;
    for (int j = 0; j < 8; j++) {
      int scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
      int min = j < 4 ? s[j + 4] & 63 : (s[j + 4] >> 4) | (s[j] >> 6) << 4;
      put_six_bits(record + 64, 16, j, row, scale);
      put_six_bits(record + 64, 16, 8 + j, row, min);
    }
  } else if constexpr (T::ID == Q6_K) {
    memcpy(halves, b + 208, 2);
    for (int s = 0; s < 16; s++) record[32 + 16 * s + row] = b[192 + s];
  } else {
    static_assert(T::ID == IQ4_XS, "a block type without a scale rule");
    memcpy(halves, b, 2);
    u16 high;
    memcpy(&high, b + 2, 2);
    for (int j = 0; j < 8; j++) {
      int low = (b[4 + j / 2] >> (4 * (j % 2))) & 15;
      put_six_bits(record + 32, 8, j, row, low | ((high >> (2 * j)) & 3) << 4);
    }
  }
}

/* ---- planes ---- */

/* `bits` (8, 4, 2 or 1) of every position, starting at bit `from` of the codes, to a plane. */
static void put_plane(u8* plane, const u8* codes, int bits, int from) {
  if (bits == 8) {
    memcpy(plane, codes, 512);
  } else if (bits == 4) {
    for (int p = 0; p < 256; p++) plane[p] = (u8)((codes[p] & 15) | (codes[p + 256] & 15) << 4);
  } else if (bits == 2) {
    for (int p = 0; p < 128; p++) {
      int v = 0;
      for (int t = 0; t < 4; t++) v |= ((codes[p + 128 * t] >> from) & 3) << (2 * t);
      plane[p] = (u8)v;
    }
  } else if (bits == 1) {
    for (int p = 0; p < 64; p++) {
      int v = 0;
      for (int t = 0; t < 8; t++) v |= ((codes[p + 64 * t] >> from) & 1) << t;
      plane[p] = (u8)v;
    }
  }
}

template <class T>
static void pack_panel(u8* panel, const u8* source, i64 row_size, int rows, i64 columns) {
  const i64 blocks = columns / 32, file_blocks = columns / T::COLUMNS, block_size = row_size / file_blocks;
  u8 codes[16][T::COLUMNS];
  memset(codes, 0, sizeof codes);
  for (i64 f = 0; f < file_blocks; f++) {
    u8* record = (u8*)T::record(panel, blocks, f * (T::COLUMNS / 32));
    memset(record, 0, T::RECORD);
    for (int r = 0; r < rows; r++) {
      const u8* b = source + r * row_size + f * block_size;
      file_codes<T>(codes[r], b);
      put_scales<T>(record, r, b);
    }
    for (int j = 0; j < T::COLUMNS / 32; j++) {
      u8 ordered[512];
      for (int r = 0; r < 16; r++)
        for (int g = 0; g < 8; g++) memcpy(ordered + 64 * g + 4 * r, codes[r] + 32 * j + 4 * g, 4);
      const i64 b = f * (T::COLUMNS / 32) + j;
      put_plane((u8*)T::low(panel, b), ordered, T::LOW, 0);
      if (T::HIGH) put_plane((u8*)T::high(panel, blocks, b), ordered, T::HIGH, T::LOW);
    }
  }
}

template <class E>
static void pack_elements(u8* panel, const u8* source, i64 row_size, int rows, i64 columns) {
  for (i64 k = 0; k < columns; k++) {
    E column[16] = {};
    for (int r = 0; r < rows; r++) memcpy(&column[r], source + r * row_size + k * (i64)sizeof(E), sizeof(E));
    memcpy(panel + k * (i64)sizeof column, column, sizeof column);
  }
}

void pack(u8* destination, const u8* source, i64 rows, i64 columns, i32 dtype) {
  const TypeInfo& type = *find_type(dtype);
  const i64 row_size = row_bytes(type, columns), size = panel_bytes(type, columns);
  parallel_static(panel_count(rows), [&](i64 p, int) {
    u8* panel = destination + p * size;
    const u8* from = source + p * 16 * row_size;
    const int present = (int)(rows - p * 16 < 16 ? rows - p * 16 : 16);
    const i64 used = 16 * row_size;
    memset(panel + used, 0, (size_t)(size - used));
    if (with_block_type(dtype, [&](auto t) { pack_panel<decltype(t)>(panel, from, row_size, present, columns); })) return;
    if (type.block_bytes == 2) pack_elements<u16>(panel, from, row_size, present, columns);
    else if (type.block_bytes == 4) pack_elements<u32>(panel, from, row_size, present, columns);
    else pack_elements<u64>(panel, from, row_size, present, columns);
  });
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
PSI_API i32 psi_packed_bytes(void* bytes, i32 rows, i32 columns, i32 dtype) {
  if (!bytes) return psi::fail(PSI_INVALID, "[psi_packed_bytes] expected a result place, got null.");
  if (rows < 1 || columns < 1) return psi::fail(PSI_INVALID, "[psi_packed_bytes] expected rows and columns >= 1, got %d and %d.", rows, columns);
  const psi::TypeInfo* type;
  i32 status = psi::check_weight_type("psi_packed_bytes", dtype & ~PSI_PACKED, columns, &type);
  if (status != PSI_OK) return status;
  f64 n = (f64)(psi::panel_count(rows) * psi::panel_bytes(*type, columns));
  memcpy(bytes, &n, 8);
  return PSI_OK;
}

PSI_API i32 psi_pack(void* destination, const void* source, i32 rows, i32 columns, i32 dtype) {
  PSI_OPENED("psi_pack");
  if (!destination || !source) return psi::fail(PSI_INVALID, "[psi_pack] expected non-null pointers.");
  if ((uintptr_t)destination % 64 != 0) return psi::fail(PSI_INVALID, "[psi_pack] expected a destination aligned to 64 bytes.");
  if (rows < 1 || columns < 1) return psi::fail(PSI_INVALID, "[psi_pack] expected rows and columns >= 1, got %d and %d.", rows, columns);
  const psi::TypeInfo* type;
  i32 status = psi::check_weight_type("psi_pack", dtype & ~PSI_PACKED, columns, &type);
  if (status != PSI_OK) return status;
  PSI_RUN(pack)((u8*)destination, (const u8*)source, rows, columns, type->id);
  return PSI_OK;
}
#endif
