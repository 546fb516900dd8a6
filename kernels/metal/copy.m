/* psi_copy: bytes from one place of device memory to another, in order with kernels. */
#include "copy.h"

#include "launch.h"

PSI_API i32 psi_copy(void* destination, const void* source, f64 bytes) {
  if (!(bytes >= 0) || bytes > 1e15) return psi_fail(PSI_INVALID, "[psi_copy] expected a size in bytes, got %g.", bytes);
  if (bytes == 0) return PSI_OK;
  PSI_TRY(PSI_CHECK_POINTERS("psi_copy", destination, source));
  u64 bits = (u64)(uintptr_t)destination | (u64)(uintptr_t)source | (u64)bytes;
  i64 word = bits % 16 == 0 ? 16 : bits % 4 == 0 ? 4 : 1;
  i64 words = (i64)bytes / word;
  PSI_TRY(psi_check_count("psi_copy", (f64)words));
  PsiLaunch l = psi_kernel("copy", word == 16 ? "copy_16" : word == 4 ? "copy_4" : "copy_1");
  psi_write(&l, 0, destination, bytes);
  psi_read(&l, 1, source, bytes);
  CopyParams p = {(u32)words};
  psi_params(&l, 2, &p, sizeof p);
  return psi_launch(&l, PSI_DIVIDE_UP(words, 256), 1, 1, 256, 1, 1);
}
