/*
 * Weights keep the layout of their file, so that they can stay mapped from it: packing is a copy, for matrices that the
 * loader joins or makes. psi_adopt (shim.m) is the way without one.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "launch.h"

static i32 size_of(const char* where, i32 rows, i32 columns, i32 dtype, f64* bytes) {
  const PsiType* type;
  PSI_TRY(PSI_CHECK_SIZES(where, rows, columns));
  PSI_TRY(psi_check_weight(where, dtype, columns, &type));
  *bytes = (f64)rows * (columns / type->block) * type->block_bytes;
  return PSI_OK;
}

PSI_API i32 psi_packed_bytes(void* bytes, i32 rows, i32 columns, i32 dtype) {
  PSI_TRY(PSI_CHECK_POINTERS("psi_packed_bytes", bytes));
  return size_of("psi_packed_bytes", rows, columns, dtype, bytes);
}

PSI_API i32 psi_pack(void* destination, const void* source, i32 rows, i32 columns, i32 dtype) {
  f64 bytes;
  PSI_TRY(size_of("psi_pack", rows, columns, dtype, &bytes));
  return psi_upload(destination, source, bytes);
}

PSI_API i32 psi_pack_file(void* destination, const char* path, i32 rows, i32 columns, i32 dtype, f64 offset) {
  f64 bytes;
  PSI_TRY(size_of("psi_pack_file", rows, columns, dtype, &bytes));
  PSI_TRY(PSI_CHECK_POINTERS("psi_pack_file", destination, path));
  if (!(offset >= 0) || offset > 1e15) return psi_fail(PSI_INVALID, "[psi_pack_file] expected an offset in the file, got %g.", offset);
  PSI_TRY(psi_synchronize());
  int file = open(path, O_RDONLY);
  if (file < 0) return psi_fail(PSI_IO, "[psi_pack_file] %s: %s", path, strerror(errno));
  i64 done = 0, all = (i64)bytes;
  while (done < all) {
    i64 want = all - done < 1 << 28 ? all - done : 1 << 28;
    ssize_t got = pread(file, (char*)destination + done, (size_t)want, (off_t)((i64)offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    done += got;
  }
  int reason = errno;
  close(file);
  if (done == all) return PSI_OK;
  return psi_fail(PSI_IO, "[psi_pack_file] expected %.0f bytes at %.0f of %s, got %lld (%s).", bytes, offset, path, (long long)done,
                  reason ? strerror(reason) : "end of file");
}
