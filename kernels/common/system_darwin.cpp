#ifdef __APPLE__
#include <pthread/qos.h>
#include <sys/sysctl.h>

#include "system.h"

namespace psi {

/* macOS has no public futex before 14.4: one lock and one condition serve the pool's single word. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

void sleep_while(std::atomic<u32>* word, u32 seen) {
  pthread_mutex_lock(&lock);
  while (word->load() == seen) pthread_cond_wait(&changed, &lock);
  pthread_mutex_unlock(&lock);
}
void wake_sleepers(std::atomic<u32>*, int) {
  pthread_mutex_lock(&lock);
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&lock);
}

/* With the stack that Linux gives, since 512 KiB is what macOS would. */
bool start_thread(pthread_t* handle, void* (*body)(void*), void* argument) {
  pthread_attr_t attributes;
  if (pthread_attr_init(&attributes) != 0) return false;
  bool started = pthread_attr_setstacksize(&attributes, 8u << 20) == 0 && pthread_create(handle, &attributes, body, argument) == 0;
  pthread_attr_destroy(&attributes);
  return started;
}
/* Threads without a class of their own may be put on efficiency cores, for which all others then wait. */
void enter_worker() { pthread_set_qos_class_self_np(QOS_CLASS_USER_INITIATED, 0); }

int physical_cores() {
  const char* const names[] = {"hw.perflevel0.physicalcpu", "hw.physicalcpu"};
  for (const char* name : names) {
    int count = 0;
    size_t size = sizeof count;
    if (sysctlbyname(name, &count, &size, nullptr, 0) == 0 && count > 0) return count;
  }
  return 1;
}

int place_on_nodes(const pthread_t*, int) { return 1; }

}  // namespace psi
#endif
