/*
 * Hopper's matrix product of a warpgroup (4 warps, sm_90a): D (64 x N, f32) += A (64 x 16, bf16, registers) B (16 x N,
 * bf16, shared memory); without nvcc it is computed on fibers. Warp w of the group holds rows 16w ... 16w + 15 of A and D
 * in mma.m16n8k16's fragments: d[4j ...] is D's fragment of columns 8j ... 8j + 7.
 *
 * B lies in rows of 128 bytes, one per column of B (64 values of k, chunks of 16 bytes swizzled: chunk c of row n at
 * c ^ n % 8), from an address aligned to 1024 bytes. A product runs on its own after its issue:
 *   wgmma_fence, products, wgmma_commit, then wgmma_wait<n> until at most n commits are under way.
 * Meanwhile nothing may touch D, or change a and B's rows.
 */
#pragma once
#include "instructions.h"

#if defined(PSI_STANDIN) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define PSI_WGMMA 1

namespace psi {

#if defined(PSI_STANDIN)

inline void wgmma_fence() {}
inline void wgmma_commit() {}
template <int PENDING, int COUNT>
void wgmma_wait(float (&)[COUNT]) {}
inline void wgmma_show_shared() {}
inline void prefetch_l2(const void*) {}

/* What wgmma_bf16 takes of B, and the same `bytes` further. */
inline u64 wgmma_rows(const void* rows) { return (u64)(uintptr_t)rows; }
inline u64 wgmma_rows_at(u64 rows, u32 bytes) { return rows + bytes; }

template <int COUNT>
void wgmma_bf16(float (&d)[COUNT], const u32* a, u64 rows, bool accumulate) {
  auto value = [&](int n, int k) {
    u64 at = rows + n * 128 + 2 * k;
    return (u32) * (const u16*)(uintptr_t)(at ^ (at >> 7 & 7) << 4);
  };
  int g = standin::self->lane / 4, t = standin::self->lane % 4;
  for (int j = 0; j < COUNT / 4; j++) {
    u32 b[2];
    for (int i = 0; i < 2; i++) b[i] = value(8 * j + g, 8 * i + 2 * t) | value(8 * j + g, 8 * i + 2 * t + 1) << 16;
    if (!accumulate)
      for (int i = 0; i < 4; i++) d[4 * j + i] = 0;
    mma_bf16(d + 4 * j, a, b);
  }
}

#else

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/* The compiler must not move uses of d before the wait. */
template <int PENDING, int COUNT>
__device__ __forceinline__ void wgmma_wait(float (&d)[COUNT]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
  if (PENDING == 0)
#pragma unroll
    for (int i = 0; i < COUNT; i++) asm volatile("" : "+f"(d[i])::"memory");
}
/* Shows this thread's writes to shared memory to products that are issued after a barrier. */
__device__ __forceinline__ void wgmma_show_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

/* B's descriptor: address, 1024 bytes between groups of 8 rows, swizzle of 128 bytes; and the same `bytes` further. */
__device__ __forceinline__ u64 wgmma_rows(const void* rows) {
  return (u64)1 << 62 | (u64)(1024 >> 4) << 32 | (u64)1 << 16 | (shared_address(rows) & 0x3ffff) >> 4;
}
__device__ __forceinline__ u64 wgmma_rows_at(u64 rows, u32 bytes) { return rows + (bytes >> 4); }
/* Starts to fetch the 32 bytes at p into L2. */
__device__ __forceinline__ void prefetch_l2(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

__device__ __forceinline__ void wgmma_bf16(float (&d)[16], const u32* a, u64 rows, bool accumulate) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %21, 0;"
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {"
      "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
      "}, {%16,%17,%18,%19}, %20, p, 1, 1, 0;}"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]),
        "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
        "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]),
        "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(rows), "r"((int)accumulate));
}
__device__ __forceinline__ void wgmma_bf16(float (&d)[32], const u32* a, u64 rows, bool accumulate) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %37, 0;"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
      "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
      "}, {%32,%33,%34,%35}, %36, p, 1, 1, 0;}"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]),
        "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
        "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]),
        "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
        "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]),
        "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
        "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]),
        "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(rows), "r"((int)accumulate));
}
__device__ __forceinline__ void wgmma_bf16(float (&d)[64], const u32* a, u64 rows, bool accumulate) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %69, 0;"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
      "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
      "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
      "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
      "}, {%64,%65,%66,%67}, %68, p, 1, 1, 0;}"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]),
        "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
        "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]),
        "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
        "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]),
        "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
        "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]),
        "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
        "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]),
        "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
        "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]),
        "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
        "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]),
        "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
        "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]),
        "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(rows), "r"((int)accumulate));
}

#endif

}  // namespace psi

#endif
