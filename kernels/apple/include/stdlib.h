#pragma once
#include <stddef.h>
#ifdef __cplusplus
extern "C" {
#endif
void* malloc(size_t);
void* calloc(size_t, size_t);
void* realloc(void*, size_t);
void* aligned_alloc(size_t alignment, size_t bytes);
void free(void*);
void abort(void) __attribute__((noreturn));
char* getenv(const char*);
long strtol(const char*, char**, int);
int atoi(const char*);
int abs(int);
void qsort(void*, size_t, size_t, int (*)(const void*, const void*));
#ifdef __cplusplus
}
#endif
