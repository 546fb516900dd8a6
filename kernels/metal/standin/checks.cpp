/*
 * The compiler calls these functions before every load and store of a checked kernel (-fsanitize=thread makes the calls;
 * its own runtime is not linked).
 */
#include "checks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "../../standin/fiber.h"
#include "executor.h"

using psi::standin::self;

extern "C" {
extern char __ehdr_start __attribute__((visibility("hidden")));
extern char _end __attribute__((visibility("hidden")));
}

namespace psi_metal {

static Shadow threadgroup_shadow[STANDIN_THREADGROUP_BYTES + (MOST_VARIABLES + 1) * THREADGROUP_GAP];
static bool checking;

void begin_checks() {
  for (int i = 0; i < running.arguments; i++) {
    Range& r = running.ranges[i];
    if (!r.writable || r.bytes == 0) continue;
    void* m = mmap(nullptr, r.bytes * sizeof(Shadow), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    r.shadow = m == MAP_FAILED ? nullptr : (Shadow*)m;
  }
  checking = true;
}

void end_checks() {
  checking = false;
  for (int i = 0; i < running.arguments; i++) {
    Range& r = running.ranges[i];
    if (r.shadow) munmap(r.shadow, r.bytes * sizeof(Shadow));
    r.shadow = nullptr;
  }
}

static long code_offset(const void* site) { return (long)((const char*)site - &__ehdr_start) - 1; }

static const char* verb(bool write) { return write ? "writes" : "reads"; }

/* ---- races ---- */

static bool unordered(const Touch& t, const Touch& now) {
  if (t.epoch == 0) return false;
  if (t.group != now.group) return true;
  if (t.thread == now.thread || t.epoch != now.epoch) return false;
  int of = t.thread >= 0 ? t.thread / 32 : t.thread <= -2 ? -2 - t.thread : -1;
  return !(of == now.thread / 32 && t.simd_epoch < now.simd_epoch);
}

/* A byte that several threads read keeps them as one reader, of a simdgroup or of all. */
static void note_read(Touch& t, const Touch& now) {
  bool same = t.epoch == now.epoch && t.group == now.group;
  if (!same || t.thread == now.thread) {
    t = now;
    return;
  }
  int of = t.thread >= 0 ? t.thread / 32 : t.thread <= -2 ? -2 - t.thread : -1;
  bool together = of == now.thread / 32;
  if (together && t.simd_epoch < now.simd_epoch) t = now;
  else {
    t = now;
    t.thread = together ? -2 - of : -1;
  }
}

static unsigned group_number() {
  const psi::standin::Fiber& f = *self;
  return f.block_index.x + f.grid_size.x * (f.block_index.y + f.grid_size.y * f.block_index.z);
}

static void race(const Touch& t, bool earlier_write, bool write, size_t bytes, const char* where, size_t offset, long code) {
  if (t.group != group_number() && strncmp(where, "buffer", 6) == 0) {
    fault("%s %zu bytes at %zu of %s that a thread of threadgroup %u %s in the same dispatch [code +0x%lx]", verb(write), bytes, offset, where, t.group,
          earlier_write ? "wrote" : "read", code);
  }
  if (t.thread >= 0) {
    fault("%s %zu bytes at %zu of %s that thread %d %s with no barrier between [code +0x%lx]", verb(write), bytes, offset, where, t.thread,
          earlier_write ? "wrote" : "read", code);
  }
  fault("%s %zu bytes at %zu of %s that several threads %s with no barrier between [code +0x%lx]", verb(write), bytes, offset, where,
        earlier_write ? "wrote" : "read", code);
}

static void touch(Shadow* s, Memory memory, size_t bytes, bool write, const char* where, size_t offset, long code) {
  const psi::standin::Fiber& f = *self;
  unsigned g = memory == DEVICE_MEMORY ? group_number() : 0; /* threadgroup memory is always of this group */
  Touch now = {group.epoch[memory], group.simd_epoch[memory][f.thread / 32], g, f.thread};
  for (size_t i = 0; i < bytes; i++) {
    if (unordered(s[i].write, now)) race(s[i].write, true, write, bytes, where, offset, code);
    if (write) {
      if (unordered(s[i].read, now)) race(s[i].read, false, write, bytes, where, offset, code);
      s[i].write = now;
    } else {
      note_read(s[i].read, now);
    }
  }
}

/* ---- bounds ---- */

static void outside(const char* p, size_t bytes, bool write, long code) {
  const Range* nearest = nullptr;
  for (int i = 0; i < running.arguments; i++) {
    const Range& r = running.ranges[i];
    if (r.bytes > 0 && r.address <= p && (!nearest || nearest->address < r.address)) nearest = &r;
  }
  for (int i = 0; i < running.arguments && !nearest; i++)
    if (running.ranges[i].bytes > 0 && p < running.ranges[i].address && running.ranges[i].address - p < 1 << 20) nearest = &running.ranges[i];
  if (!nearest)
    fault("%s %zu bytes outside of every buffer that was bound to it [code +0x%lx]", verb(write), bytes, code);
  fault("%s %zu bytes at %ld of buffer %u \"%s\", which has %zu bytes [code +0x%lx]", verb(write), bytes, (long)(p - nearest->address), nearest->index,
        nearest->name, nearest->bytes, code);
}

static void check_threadgroup(const char* p, size_t bytes, bool write, long code) {
  size_t offset = (size_t)(p - self->shared);
  const Group& g = group;
  const Variable* before = nullptr;
  for (int i = 0; i < g.count; i++) {
    const Variable& v = g.memory[i];
    if (offset >= v.offset && offset + bytes <= v.offset + v.bytes) {
      touch(threadgroup_shadow + offset, THREADGROUP_MEMORY, bytes, write, v.name, offset - v.offset, code);
      return;
    }
    if (offset >= v.offset && (!before || before->offset < v.offset)) before = &v;
  }
  if (!before) before = &g.memory[0];
  fault("%s %zu bytes at %ld of threadgroup memory %s, which has %u bytes [code +0x%lx]", verb(write), bytes, (long)offset - (long)before->offset,
        before->name, before->bytes, code);
}

static void check_device(const char* p, size_t bytes, bool write, bool atomic, long code) {
  const Range* found = nullptr;
  for (int i = 0; i < running.arguments; i++) {
    const Range& r = running.ranges[i];
    if (p < r.address || p + bytes > r.address + r.bytes) continue;
    /* what is bound twice is judged by the argument that is written through */
    if (!found || (r.writable && !found->writable)) found = &r;
  }
  if (!found) outside(p, bytes, write, code);
  if (write && !found->writable) fault("writes to buffer %u \"%s\", which is const [code +0x%lx]", found->index, found->name, code);
  if (!found->shadow || atomic) return;
  char where[64];
  snprintf(where, sizeof where, "buffer %u \"%s\"", found->index, found->name);
  size_t offset = (size_t)(p - found->address);
  touch(found->shadow + offset, DEVICE_MEMORY, bytes, write, where, offset, code);
}

static void check(const void* address, size_t bytes, bool write, bool aligned, const void* site) {
  if (!checking || bytes == 0) return;
  const char* p = (const char*)address;
  const psi::standin::Fiber& f = *self;
  if ((size_t)(p - f.stack) < psi::standin::STACK) return;
  /* what lanes hand to each other */
  if ((size_t)(p - (const char*)f.warps) < (size_t)(running.threads + 31) / 32 * sizeof(psi::standin::Warp)) return;
  long code = code_offset(site);
  if (!write && p >= &__ehdr_start && p + bytes <= &_end) return;
  constexpr size_t shared = STANDIN_THREADGROUP_BYTES + (MOST_VARIABLES + 1) * THREADGROUP_GAP;
  if (aligned && ((uintptr_t)p & (bytes - 1)) != 0)
    fault("%s %zu bytes at an address that is no multiple of %zu [code +0x%lx]", verb(write), bytes, bytes, code);
  if (p >= f.shared && p + bytes <= f.shared + shared) check_threadgroup(p, bytes, write, code);
  else check_device(p, bytes, write, false, code);
}

/* ---- atomics ---- */

static void check_atomic(const volatile void* place, bool write, const void* site) {
  if (!checking) return;
  const char* p = (const char*)place;
  long code = code_offset(site);
  if (((uintptr_t)p & 3) != 0) fault("uses an atomic at an address that is no multiple of 4 [code +0x%lx]", code);
  constexpr size_t shared = STANDIN_THREADGROUP_BYTES + (MOST_VARIABLES + 1) * THREADGROUP_GAP;
  if (p >= self->shared && p < self->shared + shared) return;
  check_device(p, 4, write, true, code);
}

uint32_t atomic(AtomicOp op, const volatile void* place, uint32_t v, bool is_signed) {
  check_atomic(place, op != ATOMIC_LOAD, __builtin_return_address(0));
  uint32_t* p = (uint32_t*)place;
  switch (op) {
    case ATOMIC_LOAD: return __atomic_load_n(p, __ATOMIC_RELAXED);
    case ATOMIC_STORE: __atomic_store_n(p, v, __ATOMIC_RELAXED); return v;
    case ATOMIC_EXCHANGE: return __atomic_exchange_n(p, v, __ATOMIC_RELAXED);
    case ATOMIC_ADD: return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
    case ATOMIC_SUB: return __atomic_fetch_sub(p, v, __ATOMIC_RELAXED);
    case ATOMIC_AND: return __atomic_fetch_and(p, v, __ATOMIC_RELAXED);
    case ATOMIC_OR: return __atomic_fetch_or(p, v, __ATOMIC_RELAXED);
    case ATOMIC_XOR: return __atomic_fetch_xor(p, v, __ATOMIC_RELAXED);
    case ATOMIC_MIN:
    case ATOMIC_MAX: break;
  }
  uint32_t old = __atomic_load_n(p, __ATOMIC_RELAXED);
  for (;;) {
    bool less = is_signed ? (int32_t)v < (int32_t)old : v < old;
    uint32_t next = less == (op == ATOMIC_MIN) ? v : old;
    if (__atomic_compare_exchange_n(p, &old, next, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) return old;
  }
}

bool compare_exchange(volatile void* place, uint32_t* expected, uint32_t desired) {
  check_atomic(place, true, __builtin_return_address(0));
  return __atomic_compare_exchange_n((uint32_t*)place, expected, desired, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

}  // namespace psi_metal

using psi_metal::check;

extern "C" {
#define SITE __builtin_return_address(0)
#define ACCESS(n)                                                                        \
  void __tsan_read##n(void* p) { check(p, n, false, true, SITE); }                       \
  void __tsan_write##n(void* p) { check(p, n, true, true, SITE); }                       \
  void __tsan_unaligned_read##n(void* p) { check(p, n, false, false, SITE); }            \
  void __tsan_unaligned_write##n(void* p) { check(p, n, true, false, SITE); }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
void __tsan_init(void) {}
void* __tsan_memcpy(void* to, const void* from, size_t n) {
  check(from, n, false, false, SITE);
  check(to, n, true, false, SITE);
  return memcpy(to, from, n);
}
void* __tsan_memmove(void* to, const void* from, size_t n) {
  check(from, n, false, false, SITE);
  check(to, n, true, false, SITE);
  return memmove(to, from, n);
}
void* __tsan_memset(void* to, int v, size_t n) {
  check(to, n, true, false, SITE);
  return memset(to, v, n);
}
/* bfloat's conversion, for which not every runtime library has a function */
__bf16 __truncsfbf2(float x) {
  uint32_t u;
  memcpy(&u, &x, 4);
  u = (u & 0x7fffffff) > 0x7f800000 ? u >> 16 | 64 : (u + 0x7fff + (u >> 16 & 1)) >> 16;
  uint16_t h = (uint16_t)u;
  __bf16 r;
  memcpy(&r, &h, 2);
  return r;
}
}
