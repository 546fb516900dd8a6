#ifdef __linux__
#include <linux/futex.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "system.h"

namespace psi {

void sleep_while(std::atomic<u32>* word, u32 seen) {
  syscall(SYS_futex, (u32*)word, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
}
void wake_sleepers(std::atomic<u32>* word, int count) {
  syscall(SYS_futex, (u32*)word, FUTEX_WAKE_PRIVATE, count, nullptr, nullptr, 0);
}

bool start_thread(pthread_t* handle, void* (*body)(void*), void* argument) {
  return pthread_create(handle, nullptr, body, argument) == 0;
}
void enter_worker() {}

static bool read_line(const char* path, char* out, int capacity) {
  FILE* f = fopen(path, "r");
  if (!f) return false;
  bool ok = fgets(out, capacity, f) != nullptr;
  fclose(f);
  return ok;
}

/* Marks the processors of a list such as "0-3,8" in `set`. */
static void parse_list(const char* p, cpu_set_t* set) {
  CPU_ZERO(set);
  while (*p >= '0' && *p <= '9') {
    char* end;
    long first = strtol(p, &end, 10), last = first;
    if (*end == '-') last = strtol(end + 1, &end, 10);
    for (long c = first; c <= last && c < CPU_SETSIZE; c++) CPU_SET((size_t)c, set);
    p = *end == ',' ? end + 1 : end;
  }
}

static cpu_set_t allowed_processors() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) CPU_SET(0, &allowed);
  return allowed;
}

/* One per physical core: a processor counts when no lower-numbered sibling of its core is allowed too. */
int physical_cores() {
  const cpu_set_t allowed = allowed_processors();
  int count = 0;
  for (int c = 0; c < CPU_SETSIZE; c++) {
    if (!CPU_ISSET((size_t)c, &allowed)) continue;
    char path[128], line[1024];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", c);
    bool first = true;
    if (read_line(path, line, sizeof line)) {
      cpu_set_t siblings;
      parse_list(line, &siblings);
      for (int s = 0; s < c; s++) first = first && !(CPU_ISSET((size_t)s, &siblings) && CPU_ISSET((size_t)s, &allowed));
    }
    count += first;
  }
  return count > 0 ? count : 1;
}

int place_on_nodes(const pthread_t* handles, int threads) {
  static cpu_set_t nodes[64];
  const cpu_set_t allowed = allowed_processors();
  int count = 0;
  for (int n = 0; n < 64; n++) {
    char path[128], line[4096];
    snprintf(path, sizeof path, "/sys/devices/system/node/node%d/cpulist", n);
    if (!read_line(path, line, sizeof line)) continue;
    cpu_set_t all;
    parse_list(line, &all);
    CPU_AND(&nodes[count], &all, &allowed);
    if (CPU_COUNT(&nodes[count]) > 0) count++;
  }
  if (count < 2) return 1;
  for (int t = 1; t < threads; t++) pthread_setaffinity_np(handles[t], sizeof(cpu_set_t), &nodes[t * count / threads]);
  return count;
}

}  // namespace psi
#endif
