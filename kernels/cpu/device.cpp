/*
 * The device: choice of instruction-set level, memory, file maps, and measurement of what this machine can do.
 */
#include "../common/pool.h"
#include "../common/simd.h"
#include "../common/tiles.h"

/* Sums `bytes` (a multiple of 4096) at p so that every cache line is read. */
PSI_DOT_KERNEL(read_stream, const u8* p, i64 bytes, i64* sink)
/* `rounds` (a multiple of 64) times 24 independent 64-byte integer products (24 * 128 operations a round), or as many
   operations in tiles over the 32 columns that weights have a scale for. */
PSI_DOT_KERNEL(int8_rounds, i64 rounds, i64* sink)
/* `rounds` times 24 independent 16-lane fused products (24 * 32 operations a round). */
PSI_DOT_KERNEL(f32_rounds, i64 rounds, i64* sink)

namespace psi::PSI_ISA {

/* Four streams side by side, as products read their panels: one alone does not keep the memory busy. */
void read_stream(const u8* p, i64 bytes, i64* sink) {
  const i64 quarter = bytes / 4;
  vi sum[4] = {zeroi(), zeroi(), zeroi(), zeroi()};
  for (i64 i = 0; i < quarter; i += 128)
    unroll<4>([&](auto s) PSI_LAMBDA {
      const u8* at = p + s * quarter + i;
      __builtin_prefetch(at + 2048);
      __builtin_prefetch(at + 2048 + 64);
      sum[s] = addi(sum[s], addi(loadi(at), loadi(at + 64)));
    });
  *sink = hsumi(addi(addi(sum[0], sum[1]), addi(sum[2], sum[3])));
}

#ifdef __AMX_INT8__
/* 64 rounds are 12 products of 16 x 32 by 32 x 16 bytes; four tiles hide their latency. */
void int8_rounds(i64 rounds, i64* sink) {
  Tiles tiles;
  alignas(64) i32 sums[256] = {};
  memory_barrier();
  _tile_loadd(A0, sums, 32);
  _tile_loadd(B0, sums, 64);
  _tile_zero(C0);
  _tile_zero(C1);
  _tile_zero(C2);
  _tile_zero(C3);
  for (i64 r = 0; r < rounds / 64 * 3; r++) {
    _tile_dpbssd(C0, A0, B0);
    _tile_dpbssd(C1, A0, B0);
    _tile_dpbssd(C2, A0, B0);
    _tile_dpbssd(C3, A0, B0);
  }
  _tile_stored(C0, sums, 64);
  *sink = sums[0];
}
#else
/* Enough accumulators to hide the latency of the products. opaque() keeps a product from being computed once for all rounds. */
void int8_rounds(i64 rounds, i64* sink) {
  constexpr int N = ACCUMULATORS;
  vi acc[N];
  unroll<N>([&](auto i) PSI_LAMBDA { acc[i] = set1i(i); });
  vb weights = set1b(3);
  vi inputs = set1i(0x01020304);
  for (i64 r = 0; r < rounds * (24 / N); r++) {
    unroll<N>([&](auto i) PSI_LAMBDA {
      opaque(inputs);
      acc[i] = dot4_u7s8(acc[i], weights, inputs);
    });
  }
  vi total = zeroi();
  unroll<N>([&](auto i) PSI_LAMBDA { total = addi(total, acc[i]); });
  *sink = hsumi(total);
}
#endif

void f32_rounds(i64 rounds, i64* sink) {
  constexpr int N = ACCUMULATORS;
  vf acc[N];
  unroll<N>([&](auto i) PSI_LAMBDA { acc[i] = set1((float)i); });
  vf a = set1(1.0f + (float)(rounds & 1) * 1e-7f), b = set1(1e-7f);
  for (i64 r = 0; r < rounds * (24 / N); r++)
    unroll<N>([&](auto i) PSI_LAMBDA { acc[i] = fma(acc[i], a, b); });
  vf total = zero();
  unroll<N>([&](auto i) PSI_LAMBDA { total = total + acc[i]; });
  *sink = (i64)(hsum(total) * 1e-30f);
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
#include <errno.h>
#include <fcntl.h>
#include <atomic>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#endif
#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace psi {

#if defined(__x86_64__)
static const char* const names[PSI_LEVELS] = {"plain", "avx2", "avx_vnni", "avx512", "amx"};
/* Leaf 7.1, which compilers older than the processors do not name. */
static bool has_avx_vnni() {
  unsigned a = 0, b, c, d;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}
/* Whether the processor has tiles of bytes and the system saves them (bits 17 and 18 of XCR0). */
static bool has_tiles() {
  unsigned a = 0, b, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1)) return false;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 24 & 1) || !(d >> 25 & 1)) return false;
  unsigned low, high;
  asm("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low >> 17 & 3) == 3;
}
/* Linux lets a process use tiles once it has asked (ARCH_REQ_XCOMP_PERM for XTILEDATA); all its threads then may. 0 or errno. */
static int ask_for_tiles() {
#if defined(__linux__)
  return syscall(SYS_arch_prctl, 0x1023, 18) == 0 ? 0 : errno;
#else
  return ENOSYS;
#endif
}
static bool supported(int i) {
  if (i == 1) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (i == 2) return supported(1) && has_avx_vnni();
  if (i == 3)
    return supported(1) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
  if (i == 4) return supported(3) && has_tiles() && ask_for_tiles() == 0;
  return true;
}
#elif defined(__aarch64__)
static const char* const names[PSI_LEVELS] = {"plain", "neon"};
#ifdef __APPLE__
static bool supported(int) { return true; /* every Apple processor for macOS has dot products */ }
#else
static bool supported(int i) { return i == 0 || (getauxval(AT_HWCAP) & (1ul << 20)) != 0; /* asimddp */ }
#endif
#else
static const char* const names[PSI_LEVELS] = {"plain"};
static bool supported(int) { return true; }
#endif

static int current = -1;
int level() { return current; }
const char* level_name(int index) { return index >= 0 && index < PSI_LEVELS ? names[index] : nullptr; }

static i32 find_level(const char* isa, int* out) {
  if (!isa || !*isa) {
    for (int i = PSI_LEVELS - 1; i >= 0; i--)
      if (supported(i)) {
        *out = i;
        return PSI_OK;
      }
  }
  for (int i = 0; isa && i < PSI_LEVELS; i++) {
    if (strcmp(isa, names[i]) != 0) continue;
#if defined(__x86_64__)
    if (i == 4 && supported(3) && has_tiles())
      if (const int refused = ask_for_tiles())
        return fail(PSI_UNSUPPORTED, "[psi_open] expected the system to let this process use AMX, got: %s.", strerror(refused));
#endif
    if (!supported(i)) return fail(PSI_UNSUPPORTED, "[psi_open] expected a processor with %s, got one without it.", isa);
    *out = i;
    return PSI_OK;
  }
  return fail(PSI_INVALID, "[psi_open] expected isa \"\", plain, avx2, avx_vnni, avx512, amx or neon as this build has, got \"%.40s\".", isa ? isa : "");
}

static double seconds() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Times `repeats` runs of `body`, in seconds, ascending. */
template <int REPEATS, class F>
static void time_runs(double* took, F&& body) {
  for (int i = 0; i < REPEATS; i++) {
    double start = seconds();
    body();
    double t = seconds() - start;
    int at = i;
    for (; at > 0 && took[at - 1] > t; at--) took[at] = took[at - 1];
    took[at] = t;
  }
}
/* Register-only loops are disturbed by others alone: their best run is the machine's. */
template <class F>
static double best_of_20(F&& body) {
  double took[20];
  time_runs<20>(took, body);
  return took[0];
}
/* What memory gives changes from one moment to the next: the median is what a reader can count on. */
template <class F>
static double median_of_5(F&& body) {
  double took[5];
  time_runs<5>(took, body);
  return took[2];
}

/* Byte counts come from JavaScript as f64: whole, positive and below 2^47. */
static bool byte_count(f64 bytes, size_t* out) {
  if (!(bytes >= 1 && bytes < 140737488355328.0) || bytes != (f64)(i64)bytes) return false;
  *out = (size_t)bytes;
  return true;
}
/* 4 KiB on x86, up to 64 KiB on arm64. */
static size_t page() { return (size_t)getpagesize(); }
static size_t page_up(size_t n) { return (n + page() - 1) & ~(page() - 1); }

}  // namespace psi

PSI_API i32 psi_abi_version(void) { return PSI_ABI_VERSION; }
PSI_API const char* psi_last_error(void) { return psi::last_error(); }

PSI_API i32 psi_open(const char* isa, i32 threads) {
  if (threads < 0 || threads > 512) return psi::fail(PSI_INVALID, "[psi_open] expected 0 to 512 threads, got %d.", threads);
  int index = 0;
  i32 status = psi::find_level(isa, &index);
  if (status != PSI_OK) return status;
  psi::current = -1;
  if (!psi::pool_start(threads)) return psi::fail(PSI_NO_MEMORY, "[psi_open] expected to start %d threads, got a failure of the system.", threads);
  psi::current = index;
  return PSI_OK;
}

PSI_API i32 psi_close(void) {
  psi::current = -1;
  psi::pool_stop();
  return PSI_OK;
}

PSI_API i32 psi_info(void* out, i32 capacity) {
  PSI_OPENED("psi_info");
  if (!out || capacity < 1) return psi::fail(PSI_INVALID, "[psi_info] expected a buffer of at least 1 byte, got %d.", capacity);
  char levels[128] = "";
  for (int i = 0; i < PSI_LEVELS; i++)
    if (psi::supported(i)) {
      if (*levels) strcat(levels, ",");
      strcat(levels, psi::names[i]);
    }
  snprintf((char*)out, (size_t)capacity, "isa=%s\nlevels=%s\nthreads=%d\nnuma_nodes=%d\nabi=%d\ncompiler=%s\n", psi::names[psi::current], levels,
           psi::pool_threads(), psi::pool_numa_nodes(), PSI_ABI_VERSION, __VERSION__);
  return PSI_OK;
}

#ifdef MADV_HUGEPAGE
/*
 * Where a host takes free memory back from its guests, it makes a huge page anew out of small ones at the first touch: 4 to 8 ms
 * instead of the 0.1 ms of its zeros, when small pages are mostly still there. One page in 16 is touched to know; once one was
 * that slow, blocks get small ones.
 */
static void advise_pages(u8* p, size_t n, size_t huge) {
  constexpr double SLOW = 1e-3; /* seconds */
  static std::atomic<bool> slow{false};
  if (!slow.load()) madvise(p, n, MADV_HUGEPAGE);
  for (size_t at = 0; at < n && !slow.load(); at += 16 * huge) {
    const double start = psi::seconds();
    *(volatile u8*)(p + at) = 0;
    if (psi::seconds() - start > SLOW) slow.store(true);
  }
  if (slow.load()) madvise(p, n, MADV_NOHUGEPAGE);
}
#endif

/* Blocks of at least 4 MiB start at a 2 MiB boundary and ask for huge pages. */
PSI_API i32 psi_alloc(void* address, f64 bytes) {
  size_t n;
  if (!address) return psi::fail(PSI_INVALID, "[psi_alloc] expected a place for the address, got null.");
  if (!psi::byte_count(bytes, &n)) return psi::fail(PSI_INVALID, "[psi_alloc] expected a whole number of bytes from 1 to 2^47, got %g.", bytes);
  const size_t huge = 2u << 20;
  n = psi::page_up(n);
  size_t slack = n >= 2 * huge ? huge : 0;
  u8* p = (u8*)mmap(nullptr, n + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return psi::fail(PSI_NO_MEMORY, "[psi_alloc] expected %.0f free bytes, got: %s.", bytes, strerror(errno));
  if (slack) {
    u8* start = (u8*)(((uintptr_t)p + huge - 1) & ~(uintptr_t)(huge - 1));
    if (start > p) munmap(p, (size_t)(start - p));
    size_t rest = (size_t)(p + n + slack - (start + n));
    if (rest) munmap(start + n, rest);
    p = start;
#ifdef MADV_HUGEPAGE
    advise_pages(p, n, huge);
#endif
  }
  memcpy(address, &p, sizeof p);
  return PSI_OK;
}

PSI_API i32 psi_free(void* address, f64 bytes) {
  size_t n;
  if (!address || !psi::byte_count(bytes, &n)) return psi::fail(PSI_INVALID, "[psi_free] expected the address and bytes of psi_alloc, got %g bytes.", bytes);
  if (munmap(address, psi::page_up(n)) != 0) return psi::fail(PSI_INVALID, "[psi_free] expected the address and bytes of psi_alloc, got: %s.", strerror(errno));
  return PSI_OK;
}

PSI_API i32 psi_copy(void* destination, const void* source, f64 bytes) {
  size_t n;
  if (bytes == 0) return PSI_OK;
  if (!destination || !source || !psi::byte_count(bytes, &n)) return psi::fail(PSI_INVALID, "[psi_copy] expected two addresses and a byte count, got %g bytes.", bytes);
  memmove(destination, source, n);
  return PSI_OK;
}

/* What Metal's buffers without a copy are known to take is a shared mapping; elsewhere pages that nobody writes are the same either way. */
#ifdef __APPLE__
static const int FILE_MAPPING = MAP_SHARED;
#else
static const int FILE_MAPPING = MAP_PRIVATE;
#endif

PSI_API i32 psi_map(void* address, void* bytes, const char* path) {
  if (!address || !bytes || !path) return psi::fail(PSI_INVALID, "[psi_map] expected a path and places for address and bytes, got null.");
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return psi::fail(PSI_IO, "[psi_map] expected a readable file, got: %s (%.300s).", strerror(errno), path);
  struct stat s;
  i32 status = PSI_OK;
  void* p = MAP_FAILED;
  if (fstat(fd, &s) != 0) status = psi::fail(PSI_IO, "[psi_map] expected file information, got: %s (%.300s).", strerror(errno), path);
  else if (!S_ISREG(s.st_mode)) status = psi::fail(PSI_IO, "[psi_map] expected a regular file, got something else (%.300s).", path);
  else if (s.st_size == 0) status = psi::fail(PSI_IO, "[psi_map] expected a file with content, got 0 bytes (%.300s).", path);
  else {
    p = mmap(nullptr, (size_t)s.st_size, PROT_READ, FILE_MAPPING, fd, 0);
    if (p == MAP_FAILED) status = psi::fail(PSI_IO, "[psi_map] expected to map %lld bytes, got: %s (%.300s).", (long long)s.st_size, strerror(errno), path);
  }
  close(fd);
  if (status != PSI_OK) return status;
  f64 a = (f64)(uintptr_t)p, n = (f64)s.st_size;
  memcpy(address, &a, 8);
  memcpy(bytes, &n, 8);
  return PSI_OK;
}

PSI_API i32 psi_unmap(void* address, f64 bytes) {
  size_t n;
  if (!address || !psi::byte_count(bytes, &n) || munmap(address, n) != 0)
    return psi::fail(PSI_INVALID, "[psi_unmap] expected the address and bytes of psi_map, got %g bytes.", bytes);
  return PSI_OK;
}

/* The range may start anywhere. Dropping takes whole pages inside it, so that neighbours are not dropped with it. */
PSI_API i32 psi_advise(void* address, f64 bytes, i32 advice) {
  size_t n;
  if (bytes == 0) return PSI_OK;
  if (!address || !psi::byte_count(bytes, &n)) return psi::fail(PSI_INVALID, "[psi_advise] expected a mapped range, got %g bytes.", bytes);
  if (advice != 0 && advice != 1) return psi::fail(PSI_INVALID, "[psi_advise] expected advice 0 or 1, got %d.", advice);
  uintptr_t first = (uintptr_t)address, last = first + n;
  const uintptr_t within = psi::page() - 1;
  first = advice == 0 ? first & ~within : psi::page_up(first);
  last = advice == 0 ? psi::page_up(last) : last & ~within;
  if (first >= last) return PSI_OK;
  if (madvise((void*)first, last - first, advice == 0 ? MADV_WILLNEED : MADV_DONTNEED) != 0)
    return psi::fail(PSI_IO, "[psi_advise] expected the system to take the advice, got: %s.", strerror(errno));
  return PSI_OK;
}

PSI_API i32 psi_measure(void* read_gb_s, void* int8_gop_s, void* f32_gflop_s, f64 bytes) {
  PSI_OPENED("psi_measure");
  size_t n;
  if (!read_gb_s || !int8_gop_s || !f32_gflop_s) return psi::fail(PSI_INVALID, "[psi_measure] expected three result places, got null.");
  if (!psi::byte_count(bytes, &n) || n < (1u << 20)) return psi::fail(PSI_INVALID, "[psi_measure] expected at least 1 MiB, got %g bytes.", bytes);
  const i64 threads = psi::pool_threads(), piece = 1 << 18, pieces = (i64)n / piece;
  u8* p = nullptr;
  i32 status = psi_alloc(&p, bytes);
  if (status != PSI_OK) return status;
  i64 sinks[512];
  psi::parallel_static(pieces, [&](i64 i, int) { memset(p + i * piece, (int)i, (size_t)piece); });
  double t = psi::median_of_5([&] {
    psi::parallel_static(pieces, [&](i64 i, int thread) { PSI_RUN(read_stream)(p + i * piece, piece, &sinks[thread]); });
  });
  psi_free(p, bytes);
  f64 gb_s = (double)(pieces * piece) / t * 1e-9;
  const i64 rounds = 1 << 17;
  t = psi::best_of_20([&] { psi::parallel_static(threads, [&](i64, int thread) { PSI_RUN(int8_rounds)(rounds, &sinks[thread]); }); });
  f64 gop_s = (double)(threads * rounds * 24 * 128) / t * 1e-9;
  t = psi::best_of_20([&] { psi::parallel_static(threads, [&](i64, int thread) { PSI_RUN(f32_rounds)(rounds, &sinks[thread]); }); });
  f64 gflop_s = (double)(threads * rounds * 24 * 32) / t * 1e-9;
  memcpy(read_gb_s, &gb_s, 8);
  memcpy(int8_gop_s, &gop_s, 8);
  memcpy(f32_gflop_s, &gflop_s, 8);
  return PSI_OK;
}
#endif
