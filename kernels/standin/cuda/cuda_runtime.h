/*
 * The part of CUDA that psionic's kernels use, over fibers on the CPU: the same .cu files compile with a C++ compiler
 * (-x c++ -I kernels/standin/cuda) and run where there is no device. Device memory is host memory, a captured graph is a
 * list of calls. The first stream runs at once; copies on any other run as late as they may: when an event behind them, or
 * their stream, is waited for.
 */
#pragma once
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <functional>
#include <tuple>
#include <vector>

#include "../fiber.h"

#define PSI_STANDIN 1

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __restrict__ __restrict
#define __shared__ static thread_local
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __grid_constant__

#define threadIdx (psi::standin::self->thread_index)
#define blockIdx (psi::standin::self->block_index)
#define blockDim (psi::standin::self->block_size)
#define gridDim (psi::standin::self->grid_size)
#define warpSize 32

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
using std::max;
using std::min;

/* ---- threads of a block and of a warp ---- */
inline void __syncthreads() { psi::standin::wait(*psi::standin::self->block); }
inline void __syncwarp(unsigned = ~0u) { psi::standin::wait(psi::standin::self->warp->barrier); }
inline void __threadfence() {}
inline void __threadfence_block() {}

template <class T>
T psi_from_lane(const char* slots, int lane) {
  T value;
  memcpy(&value, slots + lane * psi::standin::SLOT, sizeof value);
  return value;
}
template <class T>
T __shfl_sync(unsigned, T v, int lane, int width = 32) {
  const char* slots = psi::standin::exchange(&v, sizeof v);
  int own = psi::standin::self->lane;
  return psi_from_lane<T>(slots, (own & ~(width - 1)) | (lane & (width - 1)));
}
template <class T>
T __shfl_xor_sync(unsigned, T v, int mask, int = 32) {
  const char* slots = psi::standin::exchange(&v, sizeof v);
  return psi_from_lane<T>(slots, psi::standin::self->lane ^ mask);
}
template <class T>
T __shfl_down_sync(unsigned, T v, int delta, int width = 32) {
  const char* slots = psi::standin::exchange(&v, sizeof v);
  int own = psi::standin::self->lane;
  return (own & (width - 1)) + delta < width ? psi_from_lane<T>(slots, own + delta) : v;
}
template <class T>
T __shfl_up_sync(unsigned, T v, int delta, int width = 32) {
  const char* slots = psi::standin::exchange(&v, sizeof v);
  int own = psi::standin::self->lane;
  return (own & (width - 1)) - delta >= 0 ? psi_from_lane<T>(slots, own - delta) : v;
}
inline unsigned __ballot_sync(unsigned, int predicate) {
  const char* slots = psi::standin::exchange(&predicate, sizeof predicate);
  unsigned bits = 0;
  for (int i = 0; i < psi::standin::self->warp->lanes; i++) bits |= (psi_from_lane<int>(slots, i) != 0 ? 1u : 0u) << i;
  return bits;
}
template <class T>
unsigned __match_any_sync(unsigned, T v) {
  const char* slots = psi::standin::exchange(&v, sizeof v);
  unsigned bits = 0;
  for (int i = 0; i < psi::standin::self->warp->lanes; i++) bits |= (psi_from_lane<T>(slots, i) == v ? 1u : 0u) << i;
  return bits;
}
inline int __any_sync(unsigned m, int predicate) { return __ballot_sync(m, predicate) != 0; }
inline int __all_sync(unsigned m, int predicate) { return __ballot_sync(m, !predicate) == 0; }

/* ---- scalar functions ---- */
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz((unsigned)x); }
inline unsigned __brev(unsigned x) {
  unsigned r = 0;
  for (int i = 0; i < 32; i++) r |= (x >> i & 1u) << (31 - i);
  return r;
}
inline float __uint_as_float(unsigned x) { float f; memcpy(&f, &x, 4); return f; }
inline float __int_as_float(int x) { float f; memcpy(&f, &x, 4); return f; }
inline unsigned __float_as_uint(float f) { unsigned x; memcpy(&x, &f, 4); return x; }
inline int __float_as_int(float f) { int x; memcpy(&x, &f, 4); return x; }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
template <class T>
T __ldg(const T* p) { return *p; }
template <class T>
T __ldcs(const T* p) { return *p; }
template <class T>
void __stcs(T* p, T v) { *p = v; }
template <class T>
T psi_atomic(T* p, T (*next)(T, T), T v) {
  T old;
  __atomic_load(p, &old, __ATOMIC_RELAXED);
  T made;
  do made = next(old, v);
  while (!__atomic_compare_exchange(p, &old, &made, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return old;
}
/* Integers only, as on the device: floats are added in a fixed order. */
inline int atomicAdd(int* p, int v) { return psi_atomic<int>(p, [](int a, int b) { return a + b; }, v); }
inline unsigned atomicAdd(unsigned* p, unsigned v) { return psi_atomic<unsigned>(p, [](unsigned a, unsigned b) { return a + b; }, v); }
inline unsigned long long atomicAdd(unsigned long long* p, unsigned long long v) {
  return psi_atomic<unsigned long long>(p, [](unsigned long long a, unsigned long long b) { return a + b; }, v);
}
inline int atomicMax(int* p, int v) { return psi_atomic<int>(p, [](int a, int b) { return a > b ? a : b; }, v); }
inline unsigned atomicOr(unsigned* p, unsigned v) { return psi_atomic<unsigned>(p, [](unsigned a, unsigned b) { return a | b; }, v); }

/* ---- host side ---- */
typedef int cudaError_t;
constexpr int cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorMemoryAllocation = 2, cudaErrorInvalidConfiguration = 9,
              cudaErrorLaunchOutOfResources = 701, cudaErrorLaunchFailure = 719;
typedef void* cudaStream_t;
typedef void* cudaEvent_t;
typedef std::vector<std::function<void()>>* cudaGraph_t;
typedef cudaGraph_t cudaGraphExec_t;
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice, cudaMemcpyDefault };
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal, cudaStreamCaptureModeRelaxed };

namespace psi::standin {
inline cudaGraph_t capture = nullptr;
inline const char* failure = nullptr; /* of a kernel that ran; whoever reports it clears it */
inline cudaError_t enqueue(std::function<void()> call) {
  if (capture) capture->push_back(std::move(call));
  else call();
  return cudaSuccess;
}
struct Stream {
  bool late;
  std::vector<std::function<void()>> calls = {};
  size_t done = 0;
  void run(size_t end) {
    while (done < end) calls[done++]();
    if (done == calls.size()) begin += done, calls.clear(), done = 0;
  }
  size_t begin = 0; /* calls that were run and dropped */
};
struct Event {
  Stream* stream = nullptr;
  size_t behind = 0; /* calls of the stream before it */
};
inline int streams = 0;
inline cudaError_t enqueue(cudaStream_t stream, std::function<void()> call) {
  Stream* s = (Stream*)stream;
  if (!s || !s->late) return enqueue(std::move(call));
  s->calls.push_back(std::move(call));
  return cudaSuccess;
}
inline cudaError_t wait_for(cudaEvent_t event) {
  Event* e = (Event*)event;
  if (e && e->stream && e->behind > e->stream->begin) e->stream->run(e->behind - e->stream->begin);
  return cudaSuccess;
}
}  // namespace psi::standin

inline const char* cudaGetErrorString(cudaError_t e) { return e == 0 ? "no error" : e == 2 ? "out of memory" : "launch failure"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaMalloc(void** p, size_t bytes) {
  *p = aligned_alloc(256, (bytes + 255) / 256 * 256);
  return *p ? cudaSuccess : cudaErrorMemoryAllocation;
}
inline cudaError_t cudaFree(void* p) { free(p); return cudaSuccess; }
inline cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned) { return cudaMalloc(p, bytes); }
constexpr unsigned cudaHostAllocDefault = 0;
inline cudaError_t cudaFreeHost(void* p) { return cudaFree(p); }
inline cudaError_t cudaMemcpyAsync(void* d, const void* s, size_t n, cudaMemcpyKind, cudaStream_t on) {
  return psi::standin::enqueue(on, [=] { memcpy(d, s, n); });
}
inline cudaError_t cudaMemcpy2DAsync(void* d, size_t dp, const void* s, size_t sp, size_t n, size_t rows, cudaMemcpyKind, cudaStream_t on) {
  return psi::standin::enqueue(on, [=] {
    for (size_t r = 0; r < rows; r++) memcpy((char*)d + r * dp, (const char*)s + r * sp, n);
  });
}
inline cudaError_t cudaMemsetAsync(void* d, int v, size_t n, cudaStream_t on) {
  return psi::standin::enqueue(on, [=] { memset(d, v, n); });
}
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned) {
  *s = new psi::standin::Stream{psi::standin::streams++ > 0};
  return cudaSuccess;
}
constexpr unsigned cudaStreamNonBlocking = 1;
inline cudaError_t cudaStreamSynchronize(cudaStream_t on) {
  psi::standin::Stream* s = (psi::standin::Stream*)on;
  if (s) s->run(s->calls.size());
  return cudaSuccess;
}
inline cudaError_t cudaStreamDestroy(cudaStream_t on) {
  if (!on) return cudaSuccess;
  cudaStreamSynchronize(on);
  psi::standin::streams--;
  delete (psi::standin::Stream*)on;
  return cudaSuccess;
}
inline cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t e, unsigned) { return psi::standin::wait_for(e); }
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned) { *e = new psi::standin::Event; return cudaSuccess; }
constexpr unsigned cudaEventDisableTiming = 2, cudaEventDefault = 0;
inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t on) {
  psi::standin::Stream* s = (psi::standin::Stream*)on;
  *(psi::standin::Event*)event = {s, s ? s->begin + s->calls.size() : 0};
  return cudaSuccess;
}
inline cudaError_t cudaEventSynchronize(cudaEvent_t e) { return psi::standin::wait_for(e); }
inline cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t, cudaEvent_t) { *ms = 1; return cudaSuccess; }
inline cudaError_t cudaEventDestroy(cudaEvent_t e) { delete (psi::standin::Event*)e; return cudaSuccess; }
inline cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
  psi::standin::capture = new std::vector<std::function<void()>>;
  return cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* g) {
  *g = psi::standin::capture;
  psi::standin::capture = nullptr;
  return cudaSuccess;
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* e, cudaGraph_t g, unsigned long long = 0) {
  *e = new std::vector<std::function<void()>>(*g);
  return cudaSuccess;
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t e, cudaStream_t) {
  for (auto& call : *e) call();
  return psi::standin::failure ? cudaErrorLaunchFailure : cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t g) { delete g; return cudaSuccess; }
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t e) { delete e; return cudaSuccess; }
struct cudaDeviceProp {
  char name[256];
  int major, minor, multiProcessorCount, l2CacheSize;
  size_t sharedMemPerBlockOptin, totalGlobalMem;
};
inline cudaError_t cudaGetDeviceCount(int* n) { *n = 1; return cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaGetDevice(int* n) { *n = 0; return cudaSuccess; }
enum cudaDeviceAttr { cudaDevAttrMaxPitch = 11 };
inline cudaError_t cudaDeviceGetAttribute(int* v, cudaDeviceAttr, int) { *v = 1 << 20; return cudaSuccess; }
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  *p = {"stand-in", 9, 0, 4, 1 << 20, 227 << 10, (size_t)8 << 30};
  return cudaSuccess;
}
inline cudaError_t cudaMemGetInfo(size_t* free, size_t* total) { *free = *total = (size_t)8 << 30; return cudaSuccess; }
inline cudaError_t cudaDriverGetVersion(int* v) { *v = 0; return cudaSuccess; }
inline cudaError_t cudaRuntimeGetVersion(int* v) { *v = 0; return cudaSuccess; }
