/*
 * The thread pool: fork-join loops over a range of tasks.
 *
 * parallel(n, [&](i64 task, int thread) { ... }) runs tasks 0..n-1 and returns when all are done. Thread t starts with
 * the contiguous range [n*t/T, n*(t+1)/T) and walks it upwards; when its own range is empty it takes single tasks from
 * the ends of the others. The calling thread is thread 0 and takes part. A loop started inside a task, or with one
 * task, runs in place. Results must not depend on which thread ran a task; `thread` only selects scratch memory.
 *
 * parallel_static(...) never takes work from others: task i always runs on the thread that owns its range. Packing
 * uses it so that the pages of a weight are first touched by the thread (and NUMA node) that will read them.
 */
#pragma once
#include "isa.h"

namespace psi {

/* Bytes of scratch that each pool thread owns (64-byte aligned, contents undefined between tasks). */
constexpr i64 THREAD_SCRATCH = 512 * 1024;

typedef void (*TaskFunction)(void* context, i64 task, int thread);

/* Starts `threads` threads in all (0 = one per physical core of the affinity mask); false when out of memory. */
bool pool_start(int threads);
void pool_stop();
int pool_threads();
int pool_numa_nodes();
u8* thread_scratch(int thread);
void pool_run(i64 tasks, TaskFunction function, void* context, bool steal);

template <class F>
PSI_INLINE void parallel(i64 tasks, F&& body) {
  pool_run(tasks, [](void* c, i64 task, int thread) { (*(__typeof__(&body))c)(task, thread); }, (void*)&body, true);
}
template <class F>
PSI_INLINE void parallel_static(i64 tasks, F&& body) {
  pool_run(tasks, [](void* c, i64 task, int thread) { (*(__typeof__(&body))c)(task, thread); }, (void*)&body, false);
}

}  // namespace psi
