/* What the thread pool asks of the operating system: sleeping, threads, cores. One implementation per system. */
#pragma once
#include <pthread.h>

#include <atomic>

#include "pool.h"

namespace psi {

/* Sleeps while the word is `seen`; may return earlier. */
void sleep_while(std::atomic<u32>* word, u32 seen);
/* Wakes up to `count` sleepers, after the word was changed. */
void wake_sleepers(std::atomic<u32>* word, int count);

bool start_thread(pthread_t* handle, void* (*body)(void*), void* argument);
/* The first thing a worker does. */
void enter_worker();

/* Cores this process may use: physical ones, of the fast kind where there are two kinds; at least 1. */
int physical_cores();
/* Spreads threads 1 and up over the memory nodes, in contiguous runs; gives the number of nodes. */
int place_on_nodes(const pthread_t* handles, int threads);

}  // namespace psi
