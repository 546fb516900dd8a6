/*
 * The device instructions that have no name in C++, one inline function each; without nvcc they are computed on fibers.
 * Fragment layouts are those of the PTX ISA manual, "Matrix fragments for mma.m16n8k16": with g = lane / 4, t = lane % 4
 *   A (16 x 16): a[0] = row g, columns 2t, 2t+1; a[1] = row g+8; a[2] = row g, columns 2t+8, 2t+9; a[3] = row g+8, those
 *   B (16 x 8):  b[0] = rows 2t, 2t+1 of column g; b[1] = rows 2t+8, 2t+9
 *   D (16 x 8):  d[0], d[1] = row g, columns 2t, 2t+1; d[2], d[3] = row g+8
 * Two 16-bit values in a register: the lower index in the low half.
 */
#pragma once
#include "launch.h"

namespace psi {

/* ---- conversions ---- */
#if defined(PSI_STANDIN)
inline u32 bf16_bits(float f) {
  u32 x = __float_as_uint(f);
  if ((x & 0x7fffffff) > 0x7f800000) return x >> 16 | 0x40;
  return (x + 0x7fff + (x >> 16 & 1)) >> 16;
}
inline u32 f16_bits(float f) { _Float16 h = (_Float16)f; u16 b; memcpy(&b, &h, 2); return b; }
inline float f16_value(u32 b) { u16 s = (u16)b; _Float16 h; memcpy(&h, &s, 2); return (float)h; }
inline u32 pack_bf16(float low, float high) { return bf16_bits(low) | bf16_bits(high) << 16; }
inline u32 pack_f16(float low, float high) { return f16_bits(low) | f16_bits(high) << 16; }
#else
__device__ __forceinline__ u32 pack_bf16(float low, float high) {
  u32 r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
__device__ __forceinline__ u32 pack_f16(float low, float high) {
  u32 r;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
__device__ __forceinline__ float f16_value(u32 b) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"((unsigned short)b));
  return f;
}
__device__ __forceinline__ u32 bf16_bits(float f) { return pack_bf16(f, 0.0f) & 0xffff; }
__device__ __forceinline__ u32 f16_bits(float f) { return pack_f16(f, 0.0f) & 0xffff; }
#endif
__device__ __forceinline__ float bf16_value(u32 b) { return __uint_as_float(b << 16); }
__device__ __forceinline__ float bf16_low(u32 pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float bf16_high(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }
__device__ __forceinline__ float f16_low(u32 pair) { return f16_value(pair & 0xffff); }
__device__ __forceinline__ float f16_high(u32 pair) { return f16_value(pair >> 16); }

/* ---- pairs of bf16 ---- */
#if defined(PSI_STANDIN)
inline u32 mul_bf16x2(u32 a, u32 b) { return pack_bf16(bf16_low(a) * bf16_low(b), bf16_high(a) * bf16_high(b)); }
inline u32 fma_bf16x2(u32 a, u32 b, u32 c) {
  return pack_bf16(fmaf(bf16_low(a), bf16_low(b), bf16_low(c)), fmaf(bf16_high(a), bf16_high(b), bf16_high(c)));
}
inline u32 byte_permute(u32 low, u32 high, u32 selector) {
  uint64_t bytes = (uint64_t)high << 32 | low;
  u32 r = 0;
  for (int i = 0; i < 4; i++) r |= (u32)(bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
  return r;
}
#else
/* One rounding; -0 as the addend keeps the sign of a zero product. */
__device__ __forceinline__ u32 fma_bf16x2(u32 a, u32 b, u32 c) {
  u32 r;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
  return r;
}
__device__ __forceinline__ u32 mul_bf16x2(u32 a, u32 b) { return fma_bf16x2(a, b, 0x80008000u); }
/* Byte i of the result is byte selector[4i..4i+2] of high:low. Selectors have bit 3 clear. */
__device__ __forceinline__ u32 byte_permute(u32 low, u32 high, u32 selector) { return __byte_perm(low, high, selector); }
#endif

/* ---- 2^x ---- */
#if defined(PSI_STANDIN)
inline float exp2_fast(float x) { return exp2f(x); }
#else
__device__ __forceinline__ float exp2_fast(float x) {
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}
#endif

/* ---- matrix products: d += a b, sums in f32 ---- */
#if defined(PSI_STANDIN)
struct MmaOperands { u32 a[4], b[2]; float d[4]; };
template <bool BF16_>
void mma_standin(float* d, const u32* a, const u32* b) {
  MmaOperands own;
  memcpy(own.a, a, sizeof own.a);
  memcpy(own.b, b, sizeof own.b);
  memcpy(own.d, d, sizeof own.d);
  const char* slots = standin::exchange(&own, sizeof own);
  auto of = [&](int lane) { return (const MmaOperands*)(slots + lane * standin::SLOT); };
  auto value = [](u32 pair, int half) {
    u32 bits = half ? pair >> 16 : pair & 0xffff;
    return BF16_ ? bf16_value(bits) : f16_value(bits);
  };
  int g = standin::self->lane / 4, t = standin::self->lane % 4;
  for (int i = 0; i < 4; i++) {
    int row = g + (i / 2) * 8, column = 2 * t + i % 2;
    float sum = d[i];
    for (int k = 0; k < 16; k++) {
      u32 ra = of((row % 8) * 4 + k % 8 / 2)->a[row / 8 + 2 * (k / 8)];
      u32 rb = of(column * 4 + k % 8 / 2)->b[k / 8];
      sum += value(ra, k % 2) * value(rb, k % 2);
    }
    d[i] = sum;
  }
}
inline void mma_bf16(float* d, const u32* a, const u32* b) { mma_standin<true>(d, a, b); }
inline void mma_f16(float* d, const u32* a, const u32* b) { mma_standin<false>(d, a, b); }
#else
__device__ __forceinline__ void mma_bf16(float* d, const u32* a, const u32* b) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void mma_f16(float* d, const u32* a, const u32* b) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

/*
 * ldmatrix: four 8x8 matrices of 16-bit values; lane l gives the address in shared memory of row l%8 of matrix l/8 (16
 * bytes, aligned). r[i] gets row lane/4, columns 2(lane%4), +1 of matrix i; transposed: column lane/4, rows 2(lane%4), +1.
 */
#if defined(PSI_STANDIN)
template <bool TRANSPOSED>
void load_matrix_standin(u32* r, const void* row) {
  const char* slots = standin::exchange(&row, sizeof row);
  int g = standin::self->lane / 4, t = standin::self->lane % 4;
  for (int i = 0; i < 4; i++) {
    auto at = [&](int matrix_row) { return (const u16*)psi_from_lane<const void*>(slots, i * 8 + matrix_row); };
    r[i] = TRANSPOSED ? at(2 * t)[g] | (u32)at(2 * t + 1)[g] << 16 : at(g)[2 * t] | (u32)at(g)[2 * t + 1] << 16;
  }
  __syncwarp();
}
inline void load_matrix_x4(u32* r, const void* row) { load_matrix_standin<false>(r, row); }
inline void load_matrix_x4_transposed(u32* r, const void* row) { load_matrix_standin<true>(r, row); }
#else
__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void load_matrix_x4(u32* r, const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void load_matrix_x4_transposed(u32* r, const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
#endif

/* ---- copies from device memory to shared memory: 16 bytes a thread, zeros where `valid` is false ---- */
#if defined(PSI_STANDIN)
inline void copy_async16(void* shared, const void* source, bool valid = true) {
  if (valid) memcpy(shared, source, 16);
  else memset(shared, 0, 16);
}
inline void copy_async_commit() {}
template <int PENDING>
void copy_async_wait() {}
#else
__device__ __forceinline__ void copy_async16(void* shared, const void* source, bool valid = true) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(source), "r"(valid ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/* Waits until at most PENDING groups of this thread are under way; a barrier then shows them to the others. */
template <int PENDING>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}
#endif

/*
 * ---- bulk copies: a range of device memory to shared memory by one instruction of one thread ----
 * `arrival` is 8 bytes of shared memory, made by one thread with bulk_start and then shown to the others by a barrier.
 * For each use one thread calls bulk_expect, then bulk_copy for ranges of as many bytes in all (addresses and sizes
 * multiples of 16), also from other threads after it; every thread that reads them calls bulk_wait with the parity of the
 * use: 0, 1, 0, ... Before Hopper there is no such instruction: bulk_copies says so.
 */
#if defined(PSI_STANDIN)
/* arrival counts bytes that are still to come, and uses that are over */
struct StandinArrival { i32 missing; u32 uses; };
inline void bulk_start(u64* arrival) { *(StandinArrival*)arrival = {0, 0}; }
inline void bulk_expect(u64* arrival, u32 bytes) {
  StandinArrival* a = (StandinArrival*)arrival;
  a->missing += (i32)bytes;
  if (a->missing == 0) a->uses++;
}
inline void bulk_copy(void* shared, const void* source, u32 bytes, u64* arrival) {
  memcpy(shared, source, bytes);
  StandinArrival* a = (StandinArrival*)arrival;
  a->missing -= (i32)bytes;
  if (a->missing == 0) a->uses++;
}
inline void bulk_wait(u64* arrival, u32 parity = 0) {
  while ((((StandinArrival*)arrival)->uses & 1) == parity) standin::pause();
}
inline bool bulk_copies() { return true; }
#else
__device__ __forceinline__ void bulk_start(u64* arrival) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(arrival)) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}
__device__ __forceinline__ void bulk_expect(u64* arrival, u32 bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(arrival)), "r"(bytes) : "memory");
#endif
}
__device__ __forceinline__ void bulk_copy(void* shared, const void* source, u32 bytes, u64* arrival) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(shared)),
               "l"(source), "r"(bytes), "r"(shared_address(arrival))
               : "memory");
#endif
}
__device__ __forceinline__ void bulk_wait(u64* arrival, u32 parity = 0) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{.reg .pred done;\n"
      "again_%=: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra finished_%=;\n"
      "bra again_%=;\n"
      "finished_%=:}" ::"r"(shared_address(arrival)), "r"(parity)
      : "memory");
#endif
}
inline bool bulk_copies() { return device.compute >= 90; }
#endif

/* ---- weights: read once, not kept in L1; from shared memory where a bulk copy has brought them ---- */
#if defined(PSI_STANDIN)
inline uint4 load_stream16(const void* p) { uint4 v; memcpy(&v, p, 16); return v; }
inline uint2 load_stream8(const void* p) { uint2 v; memcpy(&v, p, 8); return v; }
inline u32 load_stream4(const void* p) { u32 v; memcpy(&v, p, 4); return v; }
inline u32 load_stream2(const void* p) { u16 v; memcpy(&v, p, 2); return v; }
#else
__device__ __forceinline__ uint4 load_stream16(const void* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
  return v;
}
__device__ __forceinline__ uint2 load_stream8(const void* p) {
  uint2 v;
  asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
  return v;
}
__device__ __forceinline__ u32 load_stream4(const void* p) {
  u32 v;
  asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(p));
  return v;
}
__device__ __forceinline__ u32 load_stream2(const void* p) {
  unsigned short v;
  asm volatile("ld.global.nc.L1::no_allocate.u16 %0, [%1];" : "=h"(v) : "l"(p));
  return v;
}
#endif

template <bool SHARED>
__device__ __forceinline__ uint4 load_part16(const void* p) {
  if constexpr (SHARED) return *(const uint4*)p;
  else return load_stream16(p);
}
template <bool SHARED>
__device__ __forceinline__ uint2 load_part8(const void* p) {
  if constexpr (SHARED) return *(const uint2*)p;
  else return load_stream8(p);
}
template <bool SHARED>
__device__ __forceinline__ u32 load_part4(const void* p) {
  if constexpr (SHARED) return *(const u32*)p;
  else return load_stream4(p);
}

/* ---- sums over a warp, every lane gets the result; one fixed tree ---- */
__device__ __forceinline__ float warp_sum(float v) {
  for (int mask = 16; mask > 0; mask >>= 1) v += __shfl_xor_sync(~0u, v, mask);
  return v;
}
__device__ __forceinline__ float warp_max(float v) {
  for (int mask = 16; mask > 0; mask >>= 1) v = fmaxf(v, __shfl_xor_sync(~0u, v, mask));
  return v;
}

#if defined(PSI_STANDIN)
inline u32 warp_max_u32(u32 v) {
  for (int mask = 16; mask > 0; mask >>= 1) v = max(v, __shfl_xor_sync(~0u, v, mask));
  return v;
}
inline u32 warp_min_u32(u32 v) { return ~warp_max_u32(~v); }
#else
__device__ __forceinline__ u32 warp_max_u32(u32 v) { return __reduce_max_sync(~0u, v); }
__device__ __forceinline__ u32 warp_min_u32(u32 v) { return __reduce_min_sync(~0u, v); }
#endif

}  // namespace psi
