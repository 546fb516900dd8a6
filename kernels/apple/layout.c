/* Sizes, offsets and numbers of arm64 macOS that the headers beside this file must have; compiled by a test. */
#include <fcntl.h>
#include <pthread.h>
#include <pthread/qos.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define HAS(what) _Static_assert(what, #what)
HAS(sizeof(struct stat) == 144);
HAS(offsetof(struct stat, st_mode) == 4);
HAS(offsetof(struct stat, st_atimespec) == 32);
HAS(offsetof(struct stat, st_size) == 96);
HAS(sizeof(pthread_mutex_t) == 64);
HAS(sizeof(pthread_cond_t) == 48);
HAS(sizeof(pthread_attr_t) == 64);
HAS(sizeof(pthread_once_t) == 16);
HAS(sizeof(struct timespec) == 16);
HAS(sizeof(off_t) == 8);
HAS(MAP_ANONYMOUS == 0x1000);
HAS(O_CLOEXEC == 0x1000000);
HAS(CLOCK_MONOTONIC == 6);
