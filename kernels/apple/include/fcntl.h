#pragma once
#include <sys/types.h>
#ifdef __cplusplus
extern "C" {
#endif
/* Variable arguments are passed on the stack here: the declaration must say that there are some. */
int open(const char* path, int flags, ...);
int fcntl(int file, int command, ...);
#ifdef __cplusplus
}
#endif
#define O_RDONLY 0x0000
#define O_WRONLY 0x0001
#define O_RDWR 0x0002
#define O_CREAT 0x0200
#define O_TRUNC 0x0400
#define O_EXCL 0x0800
#define O_CLOEXEC 0x01000000
#define F_NOCACHE 48
