#pragma once
#include <sys/types.h>
#ifdef __cplusplus
extern "C" {
#endif
void* mmap(void*, size_t, int, int, int, off_t);
int munmap(void*, size_t);
int madvise(void*, size_t, int);
#ifdef __cplusplus
}
#endif
#define PROT_NONE 0
#define PROT_READ 1
#define PROT_WRITE 2
#define MAP_SHARED 0x0001
#define MAP_PRIVATE 0x0002
#define MAP_NORESERVE 0x0040
#define MAP_ANON 0x1000
#define MAP_ANONYMOUS MAP_ANON
#define MAP_FAILED ((void*)-1)
#define MADV_WILLNEED 3
#define MADV_DONTNEED 4
