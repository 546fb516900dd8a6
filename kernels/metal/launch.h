/*
 * How an op's launcher (<op>.m) starts its kernel: name it, bind what it reads and writes, launch. See README.md.
 *
 *   PSI_API i32 psi_add(void* y, const void* a, const void* b, f64 count) {
 *     PSI_TRY(psi_check_count("psi_add", count));
 *     PsiLaunch l = psi_kernel("add", "add_f32");
 *     psi_write(&l, 0, y, 4 * count);
 *     psi_read(&l, 1, a, 4 * count);
 *     psi_read(&l, 2, b, 4 * count);
 *     AddParams p = {(u32)count};
 *     psi_params(&l, 3, &p, sizeof p);
 *     return psi_launch(&l, PSI_DIVIDE_UP(count, 256), 1, 1, 256, 1, 1);
 *   }
 *
 * Work is encoded in order into command buffers; psi_download and psi_synchronize commit the last and wait for all.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>

#include "../../ffi/psionic.h"
#include "../../ffi/psionic_train.h"
#include "types.h"

typedef int64_t i64;
typedef uint64_t u64;
typedef uint32_t u32;
typedef uint16_t u16;
typedef uint8_t u8;
typedef int8_t i8;

/* Of integers that are not negative. */
#define PSI_DIVIDE_UP(a, b) (((i64)(a) + (i64)(b) - 1) / (i64)(b))
/* Returns the status of the enclosing launcher when it is not PSI_OK. */
#define PSI_TRY(expression)                         \
  do {                                              \
    i32 status_ = (expression);                     \
    if (status_ != PSI_OK) return status_;          \
  } while (0)

enum { PSI_BUFFERS = 31, PSI_CONSTANTS = 24, PSI_PARAMS_BYTES = 512 };

typedef struct {
  const void* address; /* null: an optional tensor that is not given */
  f64 bytes;
  bool bound;
} PsiBound;

typedef struct {
  char type; /* 'b' bool, 'i' int, 'u' uint, 'f' float; 0: not set */
  u32 bits;
} PsiConstant;

/*
 * Multiply-adds after which a command buffer is committed: macOS ends one that takes some seconds, and this is 0.1 s on the slowest
 * of these GPUs at its best. A launcher whose one launch may be more makes several. The stand-in takes few, so that its tests
 * go through many buffers.
 */
#ifdef PSI_STANDIN
#define PSI_MOST_WORK 65536.0
#else
#define PSI_MOST_WORK 137438953472.0
#endif

/* A kernel and what it is given. Plain data: a launcher may copy it and change a part. */
typedef struct {
  const char *stem, *kernel;
  PsiBound buffers[PSI_BUFFERS];
  u32 threadgroup_bytes[PSI_BUFFERS];
  PsiConstant constants[PSI_CONSTANTS];
  i32 params_index; /* -1: none */
  u32 params_bytes;
  u8 params[PSI_PARAMS_BYTES];
  f64 work;   /* multiply-adds of a thread, roughly: 16 where a launcher says nothing; see PSI_MOST_WORK */
  i32 status; /* of the first thing that went wrong above */
} PsiLaunch;

/* Kernel `kernel` of <stem>.metal. */
PsiLaunch psi_kernel(const char* stem, const char* kernel);
/* Buffer `index`: `bytes` from an address inside device memory that the kernel reads, or reads and writes. Null with 0
   bytes stands for an optional tensor: a small buffer that the kernel must not touch is bound. */
void psi_read(PsiLaunch* l, i32 index, const void* address, f64 bytes);
void psi_write(PsiLaunch* l, i32 index, void* address, f64 bytes);
/* Bytes from an address to the end of its buffer, for tensors whose size the ABI does not tell: caches, states, tables of
   pages. Where it is no device memory the launch is refused. */
f64 psi_bytes_after(const void* address);
/* A struct of at most 512 bytes for `constant P& p [[buffer(index)]]`; one per launch. */
void psi_params(PsiLaunch* l, i32 index, const void* params, size_t bytes);
/* Length of `threadgroup T* [[threadgroup(index)]]`; rounded up to 16. */
void psi_threadgroup(PsiLaunch* l, i32 index, i64 bytes);
/* Values of `constant T NAME [[function_constant(index)]]`: every constant of the file, each time. */
void psi_constant_bool(PsiLaunch* l, i32 index, bool value);
void psi_constant_int(PsiLaunch* l, i32 index, i32 value);
void psi_constant_uint(PsiLaunch* l, i32 index, u32 value);
void psi_constant_float(PsiLaunch* l, i32 index, f32 value);
/* Encodes the launch; a grid with a 0 is nothing to do. At most 2^31 - 1 threadgroups along a side. */
i32 psi_launch(PsiLaunch* l, i64 groups_x, i64 groups_y, i64 groups_z, i32 threads_x, i32 threads_y, i32 threads_z);
/* `<op>_f32` of <op>.metal for a psi_<op> that makes 4 bytes of each row [width] of f32: a threadgroup a row; buffers y, x and
   a parameter struct of the width alone. */
i32 psi_launch_rows(const char* op, void* y, const void* x, i32 rows, i32 width, i32 threads);

/* ---- checks that launchers begin with; `where` is the symbol ---- */
__attribute__((format(printf, 2, 3))) i32 psi_fail(i32 status, const char* format, ...);
/* From 0 to 2^31 - 1 elements. */
i32 psi_check_count(const char* where, f64 count);
/* No size negative. */
i32 psi_check_sizes(const char* where, const i32* sizes, i32 count);
#define PSI_CHECK_SIZES(where, ...) psi_check_sizes(where, (const i32[]){__VA_ARGS__}, (i32)(sizeof((const i32[]){__VA_ARGS__}) / sizeof(i32)))
/* No pointer null. */
i32 psi_check_pointers(const char* where, const void* const* pointers, i32 count);
#define PSI_CHECK_POINTERS(where, ...) \
  psi_check_pointers(where, (const void* const[]){__VA_ARGS__}, (i32)(sizeof((const void* const[]){__VA_ARGS__}) / sizeof(const void*)))
/* A weight type of types.h (PSI_PACKED or not: both are the file's layout here) and a row length that it divides into. */
i32 psi_check_weight(const char* where, i32 dtype, i32 columns, const PsiType** type);
/* Scratch of at least `needed` bytes. */
i32 psi_check_scratch(const char* where, const void* scratch, f64 given, f64 needed);
