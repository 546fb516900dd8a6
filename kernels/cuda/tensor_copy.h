/*
 * Hopper's matrix product with both operands in shared memory, and the copies that bring them there: a tensor map describes
 * bf16 matrices in device memory, one instruction of one thread copies a box of 128 bytes by up to 256 lines of it, zeros
 * where the box leaves the matrix. Without nvcc both are computed on fibers. Announce bytes and wait as for bulk_copy.
 *
 * A box lies in shared memory in lines of 128 bytes from a multiple of 1024, chunk c of line r at c ^ r % 8. A side of a
 * product is `rows` (a line is 64 ks of one row) or not (a line is 64 rows at one k, boxes of 64 rows one after the other).
 */
#pragma once
#include "wgmma.h"
#if !defined(PSI_STANDIN)
#include <cuda.h>
#endif

namespace psi {

constexpr int BOX_LINE = 128; /* bytes */
constexpr u32 ONE_BLOCK = 16; /* what a side of rows has for the bytes between blocks: it has none */

#if defined(PSI_STANDIN)
struct TensorMap {
  const u16* p;
  i64 inner, outer, batch, pitch, batch_pitch, lines;
};
#else
typedef CUtensorMap TensorMap;
#endif

/* Of `batch` matrices of `outer` lines of `inner` elements; boxes of 64 elements by `lines` lines. */
i32 make_tensor_map(const char* op, TensorMap& map, const void* p, i64 inner, i64 outer, i64 batch, i64 pitch, i64 batch_pitch, i32 lines);

#if defined(PSI_STANDIN)
inline void tensor_copy(void* shared, const TensorMap* map, i32 inner, i32 outer, i32 batch, u64* arrival) {
  for (i64 r = 0; r < map->lines; r++)
    for (i64 c = 0; c < 64; c++) {
      const bool there = inner + c < map->inner && outer + r < map->outer && batch < map->batch;
      u16* to = (u16*)shared + r * 64 + ((c / 8) ^ (r % 8)) * 8 + c % 8;
      *to = there ? map->p[batch * map->batch_pitch + (outer + r) * map->pitch + inner + c] : (u16)0;
    }
  StandinArrival* a = (StandinArrival*)arrival;
  a->missing -= (i32)(map->lines * BOX_LINE);
  if (a->missing == 0) a->uses++;
}
/* An arrival that counts threads. */
struct StandinCount { u16 wanted, arrived; u32 uses; };
inline void count_start(u64* arrival, u32 wanted) { *(StandinCount*)arrival = {(u16)wanted, 0, 0}; }
inline void count_arrive(u64* arrival) {
  StandinCount* a = (StandinCount*)arrival;
  if (++a->arrived == a->wanted) a->arrived = 0, a->uses++;
}
inline void prefetch_map(const TensorMap*) {}
/* A box back to memory, where its elements are of the matrix. */
inline void tensor_store(const TensorMap* map, const void* shared, i32 inner, i32 outer, i32 batch) {
  for (i64 r = 0; r < map->lines; r++)
    for (i64 c = 0; c < 64; c++)
      if (inner + c < map->inner && outer + r < map->outer && batch < map->batch)
        ((u16*)map->p)[batch * map->batch_pitch + (outer + r) * map->pitch + inner + c] = ((const u16*)shared)[r * 64 + ((c / 8) ^ (r % 8)) * 8 + c % 8];
}
inline void tensor_store_commit() {}
inline void tensor_store_wait() {}
/* Four 8 x 8 matrices of 16 bits to rows of shared memory, the opposite of load_matrix_x4. */
inline void store_matrix_x4(void* row, const u32* v) {
  for (int i = 0; i < 4; i++) {
    const u64 at = __shfl_sync(~0u, (u64)(uintptr_t)row, 8 * i + standin::self->lane / 4);
    memcpy((void*)(uintptr_t)(at + standin::self->lane % 4 * 4), v + i, 4);
  }
}
template <int COUNT>
void take_registers() {}
template <int COUNT>
void give_registers() {}
#else
__device__ __forceinline__ void tensor_copy(void* shared, const TensorMap* map, i32 inner, i32 outer, i32 batch, u64* arrival) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(shared_address(shared)),
               "l"(map), "r"(inner), "r"(outer), "r"(batch), "r"(shared_address(arrival))
               : "memory");
#endif
}
__device__ __forceinline__ void count_start(u64* arrival, u32 wanted) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(arrival)), "r"(wanted) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}
__device__ __forceinline__ void count_arrive(u64* arrival) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(arrival)) : "memory");
#endif
}
__device__ __forceinline__ void prefetch_map(const TensorMap* map) {
#if __CUDA_ARCH__ >= 900
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
#endif
}
/* A box back to memory, clipped to the matrix; commits of a thread are awaited by it: what they read may change then. */
__device__ __forceinline__ void tensor_store(const TensorMap* map, const void* shared, i32 inner, i32 outer, i32 batch) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%1, %2, %3}], [%4];" ::"l"(map), "r"(inner), "r"(outer), "r"(batch), "r"(shared_address(shared)) : "memory");
#endif
}
__device__ __forceinline__ void tensor_store_commit() {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#endif
}
__device__ __forceinline__ void tensor_store_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
#endif
}
/* Four 8 x 8 matrices of 16 bits to rows of shared memory, the opposite of load_matrix_x4. */
__device__ __forceinline__ void store_matrix_x4(void* row, const u32* v) {
#if __CUDA_ARCH__ >= 900
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(row)), "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3]) : "memory");
#endif
}
/* Registers of each thread of the warpgroup that calls: more, or fewer, than the launch gave. */
template <int COUNT>
__device__ __forceinline__ void take_registers() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
#endif
}
template <int COUNT>
__device__ __forceinline__ void give_registers() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
#endif
}
#endif

#if defined(PSI_WGMMA)

#if defined(PSI_STANDIN)
/* What wgmma_shared takes of a side; `block`: bytes from 64 rows to the next 64 where lines are ks. */
struct SharedSide { const char* p; u32 block; };
inline SharedSide shared_side(const void* p, u32 block) { return {(const char*)p, block}; }
inline SharedSide shared_side_at(SharedSide s, u32 bytes) { return {s.p + bytes, s.block}; }

template <bool ROWS>
u32 shared_element(SharedSide s, int row, int k) {
  u64 at = (u64)(uintptr_t)s.p + (ROWS ? row * 128 + 2 * k : row / 64 * s.block + k * 128 + row % 64 * 2);
  return *(const u16*)(uintptr_t)(at ^ (at >> 7 & 7) << 4);
}

/* A fragment of a warp's 16 rows */
template <bool ROWS>
void shared_fragment(u32* a, SharedSide side) {
  const int lane = standin::self->lane, row = standin::self->thread / 32 % 4 * 16;
  for (int i = 0; i < 4; i++) {
    const int r = row + lane / 4 + i % 2 * 8, k = 2 * (lane % 4) + i / 2 * 8;
    a[i] = shared_element<ROWS>(side, r, k) | shared_element<ROWS>(side, r, k + 1) << 16;
  }
}

/* D (64 x COUNT / 4 * 8) += or = A (64 x 16, a fragment in registers) B */
template <bool B_ROWS, int COUNT>
void wgmma_held(float (&d)[COUNT], const u32* a, SharedSide b_side, bool accumulate) {
  const int lane = standin::self->lane, g = lane / 4, t = lane % 4;
  for (int j = 0; j < COUNT / 4; j++) {
    u32 b[2];
    for (int i = 0; i < 2; i++)
      b[i] = shared_element<B_ROWS>(b_side, 8 * j + g, 8 * i + 2 * t) | shared_element<B_ROWS>(b_side, 8 * j + g, 8 * i + 2 * t + 1) << 16;
    if (!accumulate)
      for (int i = 0; i < 4; i++) d[4 * j + i] = 0;
    mma_bf16(d + 4 * j, a, b);
  }
}

/* D (64 x 256, or 64 x 64) += or = A (64 x 16) B (16 x 256, or 16 x 64) */
template <bool A_ROWS, bool B_ROWS, int COUNT>
void wgmma_shared(float (&d)[COUNT], SharedSide a_side, SharedSide b_side, bool accumulate) {
  u32 a[4];
  shared_fragment<A_ROWS>(a, a_side);
  wgmma_held<B_ROWS>(d, a, b_side, accumulate);
}

template <int PENDING, int COUNT>
void wgmma_done(float (&)[COUNT]) {}
#else
/* Descriptor: address, bytes between blocks of 64 rows, 1024 bytes between groups of 8 lines, swizzle of 128 bytes. */
typedef u64 SharedSide;
__device__ __forceinline__ SharedSide shared_side(const void* p, u32 block) {
  return (u64)1 << 62 | (u64)(1024 >> 4) << 32 | (u64)(block >> 4) << 16 | (shared_address(p) & 0x3ffff) >> 4;
}
__device__ __forceinline__ SharedSide shared_side_at(SharedSide s, u32 bytes) { return s + (bytes >> 4); }

template <bool A_ROWS, bool B_ROWS>
__device__ __forceinline__ void wgmma_shared(float (&d)[128], SharedSide a, SharedSide b, bool accumulate) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %130, 0;"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
      "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
      "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
      "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
      "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,"
      "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,"
      "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,"
      "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,"
      "%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
      "}, %128, %129, p, 1, 1, %131, %132;}"
      :
        "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
        "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
        "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
        "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
        "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
        "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
        "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
        "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]),
        "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71]),
        "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79]),
        "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87]),
        "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95]),
        "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99]), "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103]),
        "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107]), "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111]),
        "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115]), "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119]),
        "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123]), "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])
      : "l"(a), "l"(b), "r"((int)accumulate), "n"(A_ROWS ? 0 : 1), "n"(B_ROWS ? 0 : 1));
}
template <bool A_ROWS, bool B_ROWS>
__device__ __forceinline__ void wgmma_shared(float (&d)[32], SharedSide a, SharedSide b, bool accumulate) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %34, 0;"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
      "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
      "}, %32, %33, p, 1, 1, %35, %36;}"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
        "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
        "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
        "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
      : "l"(a), "l"(b), "r"((int)accumulate), "n"(A_ROWS ? 0 : 1), "n"(B_ROWS ? 0 : 1));
}
/* A comes from registers. */
template <bool B_ROWS>
__device__ __forceinline__ void wgmma_held(float (&d)[32], const u32* a, SharedSide b, bool accumulate) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %37, 0;"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
      "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
      "}, {%32,%33,%34,%35}, %36, p, 1, 1, %38;}"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
        "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
        "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
        "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)accumulate), "n"(B_ROWS ? 0 : 1));
}
/* Waits until at most PENDING commits are under way; d is of one that is over then. */
template <int PENDING, int COUNT>
__device__ __forceinline__ void wgmma_done(float (&d)[COUNT]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
#pragma unroll
  for (int i = 0; i < COUNT; i++) asm volatile("" : "+f"(d[i])::"memory");
}
#endif

#endif

}  // namespace psi
