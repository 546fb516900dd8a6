/*
 * File layout [rows, columns] to panels of 16 rows (layout: common/panel.h). Every code of the file is kept, so the
 * packed matrix has the file's values exactly and, but for rounding a panel up to 64 bytes, its size. Panels are split
 * over the threads as psi_matmul splits them, so the pages land with their readers. psi_pack_file reads a file into the
 * threads' scratch instead of touching its mapping: entering every page of a mapping costs four times as much.
 */
#include "../common/half.h"
#include "../common/panel.h"
#include "../common/pool.h"

/* Packs rows on the calling thread. */
PSI_KERNEL(pack, u8* destination, const u8* source, i64 rows, i64 columns, i32 dtype)

namespace psi::PSI_ISA {

/*
 * ---- codes ----
 * Bytes of a word below belong to four consecutive columns 4g..4g+3 of 32-column block j of a file block: in every
 * type four codes that are neighbours in the row stand in four neighbouring bytes of the file (or bits, for Q5_0's).
 */

PSI_INLINE u32 word_at(const u8* p) {
  u32 w;
  memcpy(&w, p, 4);
  return w;
}
PSI_INLINE u32 spread_four_bits(u32 bits) { return (bits & 15) * 0x00204081u & 0x01010101u; }

/* the low T::LOW bits of four codes */
template <class T>
PSI_INLINE u32 low_word(const u8* b, int j, int g) {
  constexpr u32 NIBBLES = 0x0f0f0f0fu, PAIRS = 0x03030303u;
  if constexpr (T::ID == Q8_0) {
    return word_at(b + 2 + 4 * g) ^ 0x80808080u;
  } else if constexpr (T::ID == Q2_K || T::ID == Q3_K) {
    return (word_at(b + (T::ID == Q2_K ? 16 : 32) + 32 * (j / 4) + 4 * g) >> (2 * (j % 4))) & PAIRS;
  } else if constexpr (T::ID == Q4_K || T::ID == Q5_K) {
    return (word_at(b + (T::ID == Q4_K ? 16 : 48) + 32 * (j / 2) + 4 * g) >> (j % 2 * 4)) & NIBBLES;
  } else if constexpr (T::ID == Q6_K) {
    return (word_at(b + 64 * (j / 4) + 32 * (j % 2) + 4 * g) >> (j % 4 / 2 * 4)) & NIBBLES;
  } else {
    constexpr int start = T::ID == MXFP4 ? 1 : T::ID == Q4_1 ? 4 : T::ID == Q5_0 ? 6 : T::ID == Q5_1 || T::ID == IQ4_XS ? 8 : 2;
    static_assert(T::LOW == 4, "a block type without a rule for its codes");
    return (word_at(b + start + 16 * j + 4 * (g % 4)) >> (g / 4 * 4)) & NIBBLES;
  }
}
/* the T::HIGH bits above them */
template <class T>
PSI_INLINE u32 high_word(const u8* b, int j, int g) {
  if constexpr (T::ID == Q5_0) return spread_four_bits(word_at(b + 2) >> (4 * g));
  else if constexpr (T::ID == Q5_1) return spread_four_bits(word_at(b + 4) >> (4 * g));
  else if constexpr (T::ID == Q3_K) return (word_at(b + 4 * g) >> j) & 0x01010101u;
  else if constexpr (T::ID == Q5_K) return (word_at(b + 16 + 4 * g) >> j) & 0x01010101u;
  else if constexpr (T::ID == Q6_K) return (word_at(b + 128 + 32 * (j / 4) + 4 * g) >> (2 * (j % 4))) & 0x03030303u;
  else return 0;
}

/* Row r of a plane of BITS a code; word(g) gives four codes. */
template <int BITS, class F>
PSI_INLINE void put_plane(u8* plane, int r, F&& word) {
  constexpr int PARTS = 8 / BITS, GROUPS = BITS; /* codes in a byte; 64-byte vectors of the plane */
  unroll<GROUPS>([&](auto g) PSI_LAMBDA {
    u32 joined = 0;
    unroll<PARTS>([&](auto t) PSI_LAMBDA { joined |= word(t * GROUPS + g) << (t * BITS); });
    memcpy(plane + 64 * g + 4 * r, &joined, 4);
  });
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

template <class T>
static void pack_panel(u8* panel, const u8* source, i64 row_size, int rows, i64 columns) {
  constexpr int PER_FILE_BLOCK = T::COLUMNS / 32;
  const i64 blocks = columns / 32, file_blocks = columns / T::COLUMNS, block_size = row_size / file_blocks;
  if (rows < 16) memset(panel, 0, (size_t)(16 * row_size));
  for (i64 f = 0; f < file_blocks; f++) {
    u8* record = (u8*)T::record(panel, blocks, f * PER_FILE_BLOCK);
    memset(record, 0, T::RECORD);
    for (int r = 0; r < rows; r++) {
      const u8* b = source + r * row_size + f * block_size;
      put_scales<T>(record, r, b);
      for (int j = 0; j < PER_FILE_BLOCK; j++) {
        const i64 place = f * PER_FILE_BLOCK + j;
        put_plane<T::LOW>((u8*)T::low(panel, place), r, [&](int g) PSI_LAMBDA { return low_word<T>(b, j, g); });
        if constexpr (T::HIGH > 0)
          put_plane<T::HIGH>((u8*)T::high(panel, blocks, place), r, [&](int g) PSI_LAMBDA { return high_word<T>(b, j, g); });
      }
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
  for (i64 p = 0; p < panel_count(rows); p++) {
    u8* panel = destination + p * size;
    const u8* from = source + p * 16 * row_size;
    const int present = (int)(rows - p * 16 < 16 ? rows - p * 16 : 16);
    const i64 used = 16 * row_size;
    memset(panel + used, 0, (size_t)(size - used));
    if (with_block_type(dtype, [&](auto t) { pack_panel<decltype(t)>(panel, from, row_size, present, columns); })) continue;
    if (type.block_bytes == 2) pack_elements<u16>(panel, from, row_size, present, columns);
    else if (type.block_bytes == 4) pack_elements<u32>(panel, from, row_size, present, columns);
    else pack_elements<u64>(panel, from, row_size, present, columns);
  }
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

namespace psi {

/* Bytes read at a time: they stay in the second-level cache until they are packed. */
constexpr i64 PIECE = 256 * 1024;
static_assert(PIECE <= THREAD_SCRATCH, "a piece has its place in the scratch of a thread");

/* body(first row, end row, thread) for the rows whose panels each thread will read. */
template <class F>
static void each_share(i64 rows, F&& body) {
  const i64 panels = panel_count(rows), threads = pool_threads();
  parallel_static(threads, [&](i64 t, int thread) {
    const i64 first = panels * t / threads * 16, end = panels * (t + 1) / threads * 16;
    if (first < end) body(first, end < rows ? end : rows, thread);
  });
}

/* 0 when the whole range was read; else an error number, or -1 when the file ends before it. */
static int read_range(int file, u8* target, i64 bytes, i64 offset) {
  for (i64 done = 0; done < bytes;) {
    const ssize_t n = pread(file, target + done, (size_t)(bytes - done), (off_t)(offset + done));
    if (n == 0) return -1;
    if (n > 0) done += n;
    else if (errno != EINTR) return errno;
  }
  return 0;
}

/* Gives 0, or what read_range gave. */
static int pack_from_file(u8* destination, int file, i64 offset, i64 rows, i64 columns, const TypeInfo& type) {
  const i64 row_size = row_bytes(type, columns), size = panel_bytes(type, columns);
  const i64 at_once = PIECE / (16 * row_size) * 16;
  int failure = 0;
  each_share(rows, [&](i64 first, i64 end, int thread) {
    u8* piece = thread_scratch(thread);
    for (i64 row = first; row < end; row += at_once) {
      const i64 count = at_once < end - row ? at_once : end - row;
      const int status = read_range(file, piece, count * row_size, offset + row * row_size);
      if (status != 0) return __atomic_store_n(&failure, status, __ATOMIC_RELAXED);
      PSI_RUN(pack)(destination + row / 16 * size, piece, count, columns, type.id);
    }
  });
  return failure;
}

static i32 check_pack(const char* name, void* destination, const void* source, i32 rows, i32 columns, i32 dtype, const TypeInfo** type) {
  if (!destination || !source) return fail(PSI_INVALID, "[%s] expected non-null pointers.", name);
  if ((uintptr_t)destination % 64 != 0) return fail(PSI_INVALID, "[%s] expected a destination aligned to 64 bytes.", name);
  if (rows < 1 || columns < 1) return fail(PSI_INVALID, "[%s] expected rows and columns >= 1, got %d and %d.", name, rows, columns);
  return check_weight_type(name, dtype & ~PSI_PACKED, columns, type);
}

}  // namespace psi

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
  const psi::TypeInfo* type;
  i32 status = psi::check_pack("psi_pack", destination, source, rows, columns, dtype, &type);
  if (status != PSI_OK) return status;
  const i64 row_size = psi::row_bytes(*type, columns), size = psi::panel_bytes(*type, columns);
  psi::each_share(rows, [&](i64 first, i64 end, int) {
    PSI_RUN(pack)((u8*)destination + first / 16 * size, (const u8*)source + first * row_size, end - first, columns, type->id);
  });
  return PSI_OK;
}

PSI_API i32 psi_pack_file(void* destination, const char* path, i32 rows, i32 columns, i32 dtype, f64 offset) {
  PSI_OPENED("psi_pack_file");
  const psi::TypeInfo* type;
  i32 status = psi::check_pack("psi_pack_file", destination, path, rows, columns, dtype, &type);
  if (status != PSI_OK) return status;
  if (!(offset >= 0 && offset < 9007199254740992.0)) return psi::fail(PSI_INVALID, "[psi_pack_file] expected an offset in the file, got %g.", offset);
  if (16 * psi::row_bytes(*type, columns) > psi::PIECE)
    return psi::fail(PSI_UNSUPPORTED, "[psi_pack_file] expected panels of at most %d bytes, got rows of %d columns. Use psi_pack.", (int)psi::PIECE, columns);
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return psi::fail(PSI_IO, "[psi_pack_file] expected a readable file, got: %s (%.300s).", strerror(errno), path);
  const int failure = psi::pack_from_file((u8*)destination, file, (i64)offset, rows, columns, *type);
  close(file);
  if (failure != 0) return psi::fail(PSI_IO, "[psi_pack_file] expected %d rows in the file, got: %s (%.300s).", rows, failure < 0 ? "its end" : strerror(failure), path);
  return PSI_OK;
}
#endif
