/*
 * The thread pool of pool.h. A region is opened by bumping `generation`; workers spin on it for SPIN_NS after their last
 * region, then sleep (system.h). Each thread's range is one 64-bit word {next, end} changed by compare-and-swap: the
 * owner takes from the front, others from the back. The caller leaves when no task is left to take and no worker is
 * inside the region, so a worker that wakes late costs nothing.
 */
#include "pool.h"

#include <sched.h>
#include <stdlib.h>
#include <time.h>

#include "system.h"

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
    sleep_while(&pool.generation, seen);
    pool.sleeping.fetch_sub(1);
  }
}

void* worker(void* argument) {
  int thread = (int)(intptr_t)argument;
  my_thread = thread;
  enter_worker();
  u32 seen = 0;
  for (;;) {
    seen = wait_for_region(seen);
    if (pool.quit.load()) return nullptr;
    pool.inside.fetch_add(1);
    if (pool.open.load()) work(thread);
    pool.inside.fetch_sub(1);
  }
}

}  // namespace

bool pool_start(int threads) {
  pool_stop();
  if (threads <= 0) threads = physical_cores();
  if (threads > MAX_THREADS) threads = MAX_THREADS;
  pool.scratch = (u8*)aligned_alloc(64, (size_t)(THREAD_SCRATCH * threads));
  if (!pool.scratch) return false;
  pool.quit.store(false);
  pool.open.store(false);
  pool.generation.store(0);
  pool.threads = 1;
  for (int t = 1; t < threads; t++) {
    if (!start_thread(&pool.handles[t], worker, (void*)(intptr_t)t)) {
      pool_stop();
      return false;
    }
    pool.threads = t + 1;
  }
  pool.nodes = place_on_nodes(pool.handles, pool.threads);
  return true;
}

void pool_stop() {
  pthread_mutex_lock(&pool.lock);
  pool.quit.store(true);
  pool.generation.fetch_add(1);
  wake_sleepers(&pool.generation, MAX_THREADS);
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
  if (pool.sleeping.load() > 0) wake_sleepers(&pool.generation, threads - 1);
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
