/*
 * Instruction-set levels and how a kernel file is built for each of them.
 *
 * Every .cpp of kernels/cpu is compiled once per level with -DPSI_ISA=<level> and that level's machine flags:
 *   x86-64: plain (SSE2), avx2 (+FMA, F16C), avx512 (F, BW, DQ, VL, VNNI)     arm64: plain, neon (+dotprod)
 * Integer products have two more, avx_vnni (avx2 with AVX-VNNI) and amx (avx512 with AMX's tiles of bytes); files without
 * them are the same there as on avx2 and on avx512.
 * The `plain` build alone also has PSI_LAUNCHER defined. So a file has three parts (embedding.cpp is an example):
 *
 *   #include "../common/simd.h"
 *   PSI_KERNEL(scale_rows, float* y, const float* x, i64 n, float s)    // 1. declares void scale_rows(...) per level
 *
 *   namespace psi::PSI_ISA {                                            // 2. built for every level: the arithmetic
 *   void scale_rows(float* y, const float* x, i64 n, float s) { ... vf a = load(x); ... }
 *   }
 *
 *   #ifdef PSI_LAUNCHER                                                 // 3. built once: checks, then the call
 *   PSI_API i32 psi_scale(void* y, const void* x, f64 count, f32 s) {
 *     PSI_OPENED("psi_scale");
 *     if (!y || !x) return psi::fail(PSI_INVALID, "[psi_scale] expected non-null pointers.");
 *     PSI_RUN(scale_rows)((float*)y, (const float*)x, (i64)count, s);
 *     return PSI_OK;
 *   }
 *   #endif
 *
 * Rules that keep a program for a new machine from failing on an old one: whatever part 2 defines stays inside
 * psi::PSI_ISA and helpers there are `static` or PSI_INLINE; no std:: templates in part 2 (the linker would keep one
 * copy, perhaps the AVX-512 one, for all levels). The references psi_<op>_ref belong to part 3. Contraction is off
 * (-ffp-contract=off): write fma() where a fused product is meant. Parallel loops: pool.h, called inside part 2.
 */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../../ffi/psionic.h"
#include "status.h"

typedef int64_t i64;
typedef uint8_t u8;
typedef int8_t i8;
typedef uint16_t u16;
typedef int16_t i16;
typedef uint32_t u32;
typedef uint64_t u64;

#define PSI_INLINE static inline __attribute__((always_inline))

namespace psi {
/* Index of the level in use (into the tables below); -1 while the device is closed. */
int level();
/* Name of a level of this build, or null. */
const char* level_name(int index);
}  // namespace psi

#if defined(__x86_64__)
#define PSI_LEVELS 5
#define PSI_DECLARE(name, ...)                    \
  namespace psi::plain { void name(__VA_ARGS__); }  \
  namespace psi::avx2 { void name(__VA_ARGS__); }   \
  namespace psi::avx512 { void name(__VA_ARGS__); }
#define PSI_ENTRIES(name) plain::name, avx2::name, avx2::name, avx512::name, avx512::name
#define PSI_DECLARE_DOTS(name, ...) \
  PSI_DECLARE(name, __VA_ARGS__)    \
  namespace psi::avx_vnni { void name(__VA_ARGS__); } \
  namespace psi::amx { void name(__VA_ARGS__); }
#define PSI_ENTRIES_DOTS(name) plain::name, avx2::name, avx_vnni::name, avx512::name, amx::name
#elif defined(__aarch64__)
#define PSI_LEVELS 2
#define PSI_DECLARE(name, ...)                   \
  namespace psi::plain { void name(__VA_ARGS__); } \
  namespace psi::neon { void name(__VA_ARGS__); }
#define PSI_ENTRIES(name) plain::name, neon::name
#else
#define PSI_LEVELS 1
#define PSI_DECLARE(name, ...) \
  namespace psi::plain { void name(__VA_ARGS__); }
#define PSI_ENTRIES(name) plain::name
#endif

#ifndef PSI_DECLARE_DOTS
#define PSI_DECLARE_DOTS PSI_DECLARE
#define PSI_ENTRIES_DOTS PSI_ENTRIES
#endif

#ifdef PSI_LAUNCHER
#define PSI_TABLE(name, entries) \
  namespace psi { static constexpr decltype(&plain::name) name##_levels[PSI_LEVELS] = {entries(name)}; }
#define PSI_KERNEL(name, ...)    \
  PSI_DECLARE(name, __VA_ARGS__) \
  PSI_TABLE(name, PSI_ENTRIES)
/* A kernel of a file that has dot4 in it, or calls one that has. */
#define PSI_DOT_KERNEL(name, ...)     \
  PSI_DECLARE_DOTS(name, __VA_ARGS__) \
  PSI_TABLE(name, PSI_ENTRIES_DOTS)
/* The kernel of the level in use; only after PSI_OPENED. */
#define PSI_RUN(name) (::psi::name##_levels[::psi::level()])
#define PSI_OPENED(where) \
  if (::psi::level() < 0) return ::psi::fail(PSI_INVALID, "[%s] expected an open device, got none. Call psi_open first.", where)
#else
#define PSI_KERNEL(name, ...) PSI_DECLARE(name, __VA_ARGS__)
#define PSI_DOT_KERNEL(name, ...) PSI_DECLARE_DOTS(name, __VA_ARGS__)
#endif
