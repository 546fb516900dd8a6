#pragma once
#include <sys/types.h>
#ifdef __cplusplus
extern "C" {
#endif
int close(int);
ssize_t read(int, void*, size_t);
ssize_t write(int, const void*, size_t);
ssize_t pread(int, void*, size_t, off_t);
int getpagesize(void);
int usleep(unsigned int);
long sysconf(int);
#define _SC_PAGESIZE 29
#ifdef __cplusplus
}
#endif
