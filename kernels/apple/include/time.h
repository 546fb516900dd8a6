#pragma once
#ifdef __cplusplus
extern "C" {
#endif
typedef long time_t;
typedef unsigned int clockid_t;
struct timespec { time_t tv_sec; long tv_nsec; };
#define CLOCK_REALTIME 0
#define CLOCK_MONOTONIC 6
int clock_gettime(clockid_t, struct timespec*);
int nanosleep(const struct timespec*, struct timespec*);
#ifdef __cplusplus
}
#endif
