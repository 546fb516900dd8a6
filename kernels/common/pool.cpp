/*
 * The thread pool of pool.h. A region is opened by bumping `generation`; workers spin on it for SPIN_NS after their last
 * region, then sleep on a futex. Each thread's range is one 64-bit word {next, end} changed by compare-and-swap: the
 * owner takes from the front, others from the back. The caller leaves when no task is left to take and no worker is
 * inside the region, so a worker that wakes late costs nothing.
 */
#include "pool.h"

#include <dirent.h>
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>

namespace psi {

namespace {

constexpr int MAX_THREADS = 512;
constexpr i64 SPIN_NS = 30000;

struct alignas(64) Range {
  std::atomic<u64> word;
};

struct Pool {
  int threads = 0;
  int nodes = 1;
  u8* scratch = nullptr;
  pthread_t handles[MAX_THREADS];
  Range ranges[MAX_THREADS];
  alignas(64) std::atomic<u32> generation{0};
  std::atomic<int> sleeping{0};
  alignas(64) std::atomic<int> inside{0};
  std::atomic<bool> open{false};
  std::atomic<bool> quit{false};
  TaskFunction function = nullptr;
  void* context = nullptr;
  bool steal = true;
  pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
};

Pool pool;
thread_local bool in_region = false;
thread_local int my_thread = 0;

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

i64 now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (i64)t.tv_sec * 1000000000 + t.tv_nsec;
}

void futex_wait(std::atomic<u32>* word, u32 seen) {
  syscall(SYS_futex, (u32*)word, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
}
void futex_wake(std::atomic<u32>* word, int count) {
  syscall(SYS_futex, (u32*)word, FUTEX_WAKE_PRIVATE, count, nullptr, nullptr, 0);
}

/* Takes one task of a range, from the front or the back; -1 when it is empty. */
i64 take(Range& range, bool front) {
  u64 word = range.word.load(std::memory_order_relaxed);
  for (;;) {
    u32 next = (u32)word, end = (u32)(word >> 32);
    if (next >= end) return -1;
    u64 changed = front ? ((u64)end << 32) | (next + 1) : ((u64)(end - 1) << 32) | next;
    if (range.word.compare_exchange_weak(word, changed, std::memory_order_relaxed)) return front ? next : end - 1;
  }
}

void work(int thread) {
  in_region = true;
  for (i64 task; (task = take(pool.ranges[thread], true)) >= 0;) pool.function(pool.context, task, thread);
  if (pool.steal)
    for (int i = 1; i < pool.threads; i++) {
      Range& other = pool.ranges[(thread + i) % pool.threads];
      for (i64 task; (task = take(other, false)) >= 0;) pool.function(pool.context, task, thread);
    }
  in_region = false;
}

u32 wait_for_region(u32 seen) {
  i64 limit = 0;
  for (int i = 0;; i++) {
    u32 current = pool.generation.load();
    if (current != seen) return current;
    relax();
    if ((i & 31) != 31) continue;
    i64 now = now_ns();
    if (limit == 0) limit = now + SPIN_NS;
    if (now < limit) continue;
    pool.sleeping.fetch_add(1);
    futex_wait(&pool.generation, seen);
    pool.sleeping.fetch_sub(1);
  }
}

void* worker(void* argument) {
  int thread = (int)(intptr_t)argument;
  my_thread = thread;
  u32 seen = 0;
  for (;;) {
    seen = wait_for_region(seen);
    if (pool.quit.load()) return nullptr;
    pool.inside.fetch_add(1);
    if (pool.open.load()) work(thread);
    pool.inside.fetch_sub(1);
  }
}

bool read_line(const char* path, char* out, int capacity) {
  FILE* f = fopen(path, "r");
  if (!f) return false;
  bool ok = fgets(out, capacity, f) != nullptr;
  fclose(f);
  return ok;
}

/* Marks the processors of a list such as "0-3,8" in `set`. */
void parse_list(const char* p, cpu_set_t* set) {
  CPU_ZERO(set);
  while (*p >= '0' && *p <= '9') {
    char* end;
    long first = strtol(p, &end, 10), last = first;
    if (*end == '-') last = strtol(end + 1, &end, 10);
    for (long c = first; c <= last && c < CPU_SETSIZE; c++) CPU_SET((size_t)c, set);
    p = *end == ',' ? end + 1 : end;
  }
}

/* One per physical core: a processor counts when no lower-numbered sibling of its core is allowed too. */
int physical_cores(const cpu_set_t* allowed) {
  int count = 0;
  for (int c = 0; c < CPU_SETSIZE; c++) {
    if (!CPU_ISSET((size_t)c, allowed)) continue;
    char path[128], line[1024];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", c);
    bool first = true;
    if (read_line(path, line, sizeof line)) {
      cpu_set_t siblings;
      parse_list(line, &siblings);
      for (int s = 0; s < c; s++) first = first && !(CPU_ISSET((size_t)s, &siblings) && CPU_ISSET((size_t)s, allowed));
    }
    count += first;
  }
  return count > 0 ? count : 1;
}

/* Pins worker t to the processors of its node (threads are spread over nodes in contiguous runs). */
void pin_to_nodes(const cpu_set_t* allowed) {
  static cpu_set_t nodes[64];
  int count = 0;
  for (int n = 0; n < 64; n++) {
    char path[128], line[4096];
    snprintf(path, sizeof path, "/sys/devices/system/node/node%d/cpulist", n);
    if (!read_line(path, line, sizeof line)) continue;
    cpu_set_t all;
    parse_list(line, &all);
    CPU_AND(&nodes[count], &all, allowed);
    if (CPU_COUNT(&nodes[count]) > 0) count++;
  }
  pool.nodes = count > 0 ? count : 1;
  if (count < 2) return;
  for (int t = 1; t < pool.threads; t++) pthread_setaffinity_np(pool.handles[t], sizeof(cpu_set_t), &nodes[t * count / pool.threads]);
}

}  // namespace

bool pool_start(int threads) {
  pool_stop();
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) CPU_SET(0, &allowed);
  if (threads <= 0) threads = physical_cores(&allowed);
  if (threads > MAX_THREADS) threads = MAX_THREADS;
  pool.scratch = (u8*)aligned_alloc(64, (size_t)(THREAD_SCRATCH * threads));
  if (!pool.scratch) return false;
  pool.quit.store(false);
  pool.open.store(false);
  pool.generation.store(0);
  pool.threads = 1;
  for (int t = 1; t < threads; t++) {
    if (pthread_create(&pool.handles[t], nullptr, worker, (void*)(intptr_t)t) != 0) {
      pool_stop();
      return false;
    }
    pool.threads = t + 1;
  }
  pin_to_nodes(&allowed);
  return true;
}

void pool_stop() {
  pthread_mutex_lock(&pool.lock);
  pool.quit.store(true);
  pool.generation.fetch_add(1);
  futex_wake(&pool.generation, MAX_THREADS);
  for (int t = 1; t < pool.threads; t++) pthread_join(pool.handles[t], nullptr);
  pool.threads = 0;
  free(pool.scratch);
  pool.scratch = nullptr;
  pthread_mutex_unlock(&pool.lock);
}

int pool_threads() { return pool.threads; }
int pool_numa_nodes() { return pool.nodes; }
u8* thread_scratch(int thread) { return pool.scratch + (i64)thread * THREAD_SCRATCH; }

void pool_run(i64 tasks, TaskFunction function, void* context, bool steal) {
  if (tasks <= 0) return;
  if (in_region) {
    for (i64 i = 0; i < tasks; i++) function(context, i, my_thread);
    return;
  }
  pthread_mutex_lock(&pool.lock);
  int threads = pool.threads;
  if (threads <= 1 || tasks == 1) {
    in_region = true;
    for (i64 i = 0; i < tasks; i++) function(context, i, 0);
    in_region = false;
    pthread_mutex_unlock(&pool.lock);
    return;
  }
  pool.function = function;
  pool.context = context;
  pool.steal = steal;
  for (int t = 0; t < threads; t++) {
    u64 first = (u64)(tasks * t / threads), last = (u64)(tasks * (t + 1) / threads);
    pool.ranges[t].word.store((last << 32) | first, std::memory_order_relaxed);
  }
  pool.open.store(true);
  pool.generation.fetch_add(1);
  if (pool.sleeping.load() > 0) futex_wake(&pool.generation, threads - 1);
  work(0);
  /* Without stealing, wait until the owners have taken the rest; they are then inside and counted below. */
  if (!steal)
    for (int t = 1; t < threads; t++)
      for (int i = 0;; i++) {
        u64 word = pool.ranges[t].word.load(std::memory_order_relaxed);
        if ((u32)word >= (u32)(word >> 32)) break;
        if (i < 4000) relax();
        else sched_yield();
      }
  pool.open.store(false);
  for (int i = 0; pool.inside.load() > 0; i++) {
    if (i < 4000) relax();
    else sched_yield();
  }
  pthread_mutex_unlock(&pool.lock);
}

}  // namespace psi
