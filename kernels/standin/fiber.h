/*
 * Runs GPU kernels on the CPU: the threads of a block are fibers of one operating-system thread, so that barriers, warp
 * exchanges and warp-wide instructions mean what they mean on a device. For tests on machines without one.
 *
 * A barrier that part of a block (or warp) never reaches ends the launch with a text; shared memory starts as NaN.
 */
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <functional>

namespace psi::standin {

struct Dim {
  unsigned x, y, z;
};

constexpr int WARP = 32;
constexpr int SLOT = 64; /* bytes a lane can hand to its warp in one exchange */

struct Barrier {
  int live, arrived;
  unsigned generation;
};

struct Warp {
  Barrier barrier;
  int lanes;
  char slots[2][WARP * SLOT];
};

struct Fiber {
  void* stack_pointer;
  bool done;
  Barrier* waits_for;
  unsigned waits_since;
  Warp* warp;
  Barrier* block;
  Warp* warps; /* of the block */
  int lane, thread, parity;
  Dim thread_index, block_index, block_size, grid_size;
  char* shared;
  const char* stack; /* of STACK bytes */
};

constexpr size_t STACK = 256 << 10;

extern thread_local Fiber* self;

void wait(Barrier& barrier);
/* Lets the block's other threads run: for waits on memory that they write. */
void pause();
/* Hands `bytes` (at most SLOT) of every lane to the warp: returns the 32 slots, valid until the next exchange but one. */
const char* exchange(const void* value, size_t bytes);

/* Ends the launch with a text, from one of its threads, which does not go on. */
[[noreturn]] void stop(const char* text);

/* Runs `body` as every thread of every block, blocks spread over `workers` threads; null, or what went wrong. */
const char* run(Dim grid, Dim block, size_t shared_bytes, const std::function<void()>& body, unsigned workers = 4);

}  // namespace psi::standin
