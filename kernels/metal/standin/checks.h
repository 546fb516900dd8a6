/*
 * What the stand-in knows of the running dispatch, and its checks of every access of a kernel: bounds of buffers and
 * threadgroup memory, alignment, writes to what is const, and accesses of two threads with no barrier between them.
 */
#pragma once
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "kernel.h"

namespace psi_metal {

constexpr int MOST_VARIABLES = 48;
constexpr unsigned THREADGROUP_GAP = 128;
enum Memory { THREADGROUP_MEMORY, DEVICE_MEMORY };

/* Who touched a byte last; epochs are counts of barriers. */
struct Touch {
  uint64_t epoch;
  uint32_t simd_epoch, group;
  int32_t thread; /* -1: several threads, -2 - s: several of simdgroup s */
};
struct Shadow {
  Touch write, read;
};

struct Range {
  const char* address;
  size_t bytes;
  unsigned index;
  bool writable;
  const char* name;
  Shadow* shadow;
};

struct Running {
  const char* name;
  int threads;
  uint64_t number;
  int arguments;
  Range ranges[31];
};
extern Running running;

struct Variable {
  int id;
  unsigned offset, bytes;
  const char* name;
};

/* What the lanes of a simdgroup found in their last exchange. */
struct Exchanged {
  uint64_t dispatch;
  unsigned stamp, active;
  int first;
  const void* site;
};

/* State of the threadgroup that this thread of the operating system runs. */
struct Group {
  uint64_t dispatch;
  Arguments arguments;
  int count;
  unsigned used, asked;
  Variable memory[MOST_VARIABLES];
  const void* site; /* of the barrier that threads wait at, and the first of them */
  int first;
  uint64_t epoch[2];
  uint32_t simd_epoch[2][32];
  Exchanged exchanged[32];
};
extern thread_local Group group;

/* Ends the dispatch with a text that names kernel and thread. */
[[noreturn]] __attribute__((format(printf, 1, 2))) void fault(const char* format, ...);

void begin_checks();
void end_checks();

}  // namespace psi_metal
