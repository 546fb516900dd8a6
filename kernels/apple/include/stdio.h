#pragma once
#include <stdarg.h>
#include <stddef.h>
#ifdef __cplusplus
extern "C" {
#endif
typedef struct __sFILE FILE;
extern FILE* __stderrp;
#define stderr __stderrp
int snprintf(char*, size_t, const char*, ...) __attribute__((format(printf, 3, 4)));
int vsnprintf(char*, size_t, const char*, va_list) __attribute__((format(printf, 3, 0)));
int fprintf(FILE*, const char*, ...) __attribute__((format(printf, 2, 3)));
#ifdef __cplusplus
}
#endif
