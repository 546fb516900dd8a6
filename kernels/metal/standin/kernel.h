/*
 * What a translated .metal file calls: the built-in arguments of a thread, barriers, exchanges inside a simdgroup,
 * threadgroup memory. Implemented in executor.cpp; plain declarations, so that no C++ header stands beside Metal's names.
 */
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace psi_metal {

struct Place {
  unsigned x, y, z;
};

struct BuiltIns {
  Place thread_position_in_grid, thread_position_in_threadgroup, threadgroup_position_in_grid;
  Place threads_per_threadgroup, threadgroups_per_grid, threads_per_grid;
  unsigned thread_index_in_threadgroup, thread_index_in_simdgroup, simdgroup_index_in_threadgroup, simdgroups_per_threadgroup;
};

/* Addresses of the arguments by index. */
struct Arguments {
  void* buffers[31];
  void* threadgroups[31];
};

struct BufferArgument {
  unsigned index;
  bool writable;
  const char* name;
};
struct Kernel {
  const char* name;
  void (*call)(const Arguments*);
  const BufferArgument* buffers; /* ends with a null name */
  unsigned threadgroups;         /* bits of the indices that [[threadgroup(n)]] takes */
};
struct FunctionConstant {
  const char* name;
  const char* type;
  unsigned index;
  bool optional; /* the source asks whether it is defined */
  void* value;
  bool* defined;
};
struct Library {
  const char* stem;
  uint64_t source_hash; /* FNV-1a of the source as Metal would get it */
  const Kernel* kernels;
  const FunctionConstant* constants;
};

constexpr unsigned SLOT_BYTES = 48;
struct Slots {
  unsigned active; /* lanes that took part */
  unsigned lane;
  const char* first;
  const char* at(unsigned i) const { return first + i * 64 + 16; }
};

enum Fence { FENCE_NONE = 0, FENCE_DEVICE = 1, FENCE_THREADGROUP = 2 };

#define PSI_CONVERGENT __attribute__((convergent, noduplicate))

BuiltIns built_ins();
unsigned lane();
PSI_CONVERGENT void threadgroup_barrier(int fences);
PSI_CONVERGENT void simdgroup_barrier(int fences);
/* Hands `bytes` (at most SLOT_BYTES) of every lane to its simdgroup; what is returned is good until the next exchange. */
PSI_CONVERGENT Slots exchange(const char* what, const void* value, unsigned bytes);
/* Where all live lanes must call the same function; looked at only in checked libraries. */
PSI_CONVERGENT void converge(const char* what);
/* Memory of a `threadgroup` variable in a kernel: the same for all threads of a threadgroup. */
void* threadgroup_variable(int* id, const char* name, unsigned bytes, unsigned alignment);

enum AtomicOp { ATOMIC_LOAD, ATOMIC_STORE, ATOMIC_EXCHANGE, ATOMIC_ADD, ATOMIC_SUB, ATOMIC_AND, ATOMIC_OR, ATOMIC_XOR, ATOMIC_MIN, ATOMIC_MAX };
uint32_t atomic(AtomicOp op, const volatile void* place, uint32_t value, bool is_signed);
bool compare_exchange(volatile void* place, uint32_t* expected, uint32_t desired);

}  // namespace psi_metal
