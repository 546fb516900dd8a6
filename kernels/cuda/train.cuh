/*
 * What the training kernels share. Their tensors are f32 or bf16, arithmetic and sums are f32: `dtype` of a call is F32, or
 * MIXED plus a bit for each pointer argument, in the prototype's order, that is bf16. f64 is the CPU's alone.
 */
#pragma once
#include "../../ffi/psionic_train.h"
#include "instructions.h"

namespace psi {

constexpr i32 MIXED = 256;

inline bool is_float(i32 dtype) { return dtype == F32 || (dtype >= MIXED && dtype < (1 << 22)); }
inline bool half_at(i32 dtype, int place) { return dtype >= MIXED && ((dtype - MIXED) >> place & 1); }

__device__ __forceinline__ float4 floats_of(uint2 v) { return make_float4(bf16_low(v.x), bf16_high(v.x), bf16_low(v.y), bf16_high(v.y)); }
__device__ __forceinline__ uint2 halves_of(float4 v) { return make_uint2(pack_bf16(v.x, v.y), pack_bf16(v.z, v.w)); }

/* A tensor that is read. at4: four elements from a multiple of four of a tensor whose address is one of 16 bytes. */
struct In {
  const void* p;
  bool half;
  __device__ __forceinline__ float at(i64 i) const { return half ? bf16_value(((const u16*)p)[i]) : ((const float*)p)[i]; }
  __device__ __forceinline__ float4 at4(i64 i) const {
    return half ? floats_of(*(const uint2*)((const u16*)p + i)) : *(const float4*)((const float*)p + i);
  }
  __device__ __forceinline__ explicit operator bool() const { return p != nullptr; }
};
/* One that is written. */
struct Out {
  void* p;
  bool half;
  __device__ __forceinline__ void put(i64 i, float v) const {
    if (half) ((u16*)p)[i] = (u16)bf16_bits(v);
    else ((float*)p)[i] = v;
  }
  __device__ __forceinline__ void put4(i64 i, float4 v) const {
    if (half) *(uint2*)((u16*)p + i) = halves_of(v);
    else *(float4*)((float*)p + i) = v;
  }
  __host__ __device__ __forceinline__ In in() const { return {p, half}; }
  __device__ __forceinline__ explicit operator bool() const { return p != nullptr; }
};

/* Four elements as they lie in memory: loads that nothing waits for until `floats`, unlike those of at4, whose conversion does. */
struct Four {
  uint4 bits; /* bf16: in x and y */
};
__device__ __forceinline__ Four load4(const In& x, i64 i) {
  Four f = {};
  if (x.half) {
    const uint2 v = *(const uint2*)((const u16*)x.p + i);
    f.bits.x = v.x, f.bits.y = v.y;
  } else f.bits = *(const uint4*)((const float*)x.p + i);
  return f;
}
__device__ __forceinline__ float4 floats(const In& x, const Four& f) {
  return x.half ? floats_of(make_uint2(f.bits.x, f.bits.y)) : make_float4(__uint_as_float(f.bits.x), __uint_as_float(f.bits.y), __uint_as_float(f.bits.z), __uint_as_float(f.bits.w));
}

/* The `valid` elements from i on, zeros after them; `whole`: that is four of them, aligned. */
__device__ __forceinline__ float4 some4(const In& x, i64 i, i64 valid, bool whole) {
  if (whole) return x.at4(i);
  return make_float4(valid > 0 ? x.at(i) : 0.0f, valid > 1 ? x.at(i + 1) : 0.0f, valid > 2 ? x.at(i + 2) : 0.0f, valid > 3 ? x.at(i + 3) : 0.0f);
}
__device__ __forceinline__ void put_some4(const Out& y, i64 i, i64 valid, bool whole, float4 v) {
  if (whole) return y.put4(i, v);
  if (valid > 0) y.put(i, v.x);
  if (valid > 1) y.put(i + 1, v.y);
  if (valid > 2) y.put(i + 2, v.z);
  if (valid > 3) y.put(i + 3, v.w);
}

/* The same as loads that nothing waits for, where they are whole. */
__device__ __forceinline__ Four load_some4(const In& x, i64 i, i64 valid, bool whole) {
  if (whole) return load4(x, i);
  const float4 v = some4(x, i, valid, false);
  Four f = {};
  if (x.half) {
    const uint2 h = halves_of(v);
    f.bits.x = h.x, f.bits.y = h.y;
  } else f.bits = make_uint4(__float_as_uint(v.x), __float_as_uint(v.y), __float_as_uint(v.z), __float_as_uint(v.w));
  return f;
}

constexpr int FLAT_THREADS = 256;
inline dim3 flat_grid(i64 count) { return dim3((unsigned)PSI_DIVIDE_UP(count, FLAT_THREADS * 4)); }
/* The first of the four elements that a thread of an element-wise kernel makes. */
__device__ __forceinline__ i64 flat_place() { return ((i64)blockIdx.x * FLAT_THREADS + threadIdx.x) * 4; }

__device__ __forceinline__ float exp_of(float x) { return exp2_fast(1.4426950408889634f * x); }

/* tanh by one exponential; a series near zero, where that cancels. Good to 2e-6 of the value. */
__device__ __forceinline__ float tanh_of(float x) {
  const float e = exp_of(-2.0f * fabsf(x)), t = __fdividef(1.0f - e, 1.0f + e), squared = x * x;
  const float small = x * fmaf(squared, fmaf(squared, 2.0f / 15.0f, -1.0f / 3.0f), 1.0f);
  return fabsf(x) < 0.1f ? small : x < 0 ? -t : t;
}

/* The sum over a block of up to 1024 threads, by one fixed tree, given to all; `shared` holds 32 values. */
template <class T>
__device__ __forceinline__ T block_total(T v, T* shared) {
  for (int mask = 16; mask > 0; mask >>= 1) v += __shfl_xor_sync(~0u, v, mask);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = (int)blockDim.x / 32;
  __syncthreads();
  if (lane == 0) shared[warp] = v;
  __syncthreads();
  T total = shared[0];
  for (int w = 1; w < warps; w++) total += shared[w];
  return total;
}

#define PSI_REFUSE_F64(where, dtype)                                                                                          \
  if (!psi::is_float(dtype))                                                                                                  \
  return psi::fail((dtype) == psi::F64 ? PSI_UNSUPPORTED : PSI_INVALID, "[%s] expected f32, or f32 and bf16, on CUDA, got dtype %d.", where, dtype)

}  // namespace psi
