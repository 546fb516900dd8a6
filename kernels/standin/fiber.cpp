#include "fiber.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

namespace psi::standin {

thread_local Fiber* self;

static thread_local void* scheduler_stack_pointer;
static thread_local const std::function<void()>* running;

extern "C" void psi_fiber_switch(void** save, void* to);

/* Saves the registers that a call must keep, changes stacks, restores the other side's. */
#if defined(__x86_64__)
asm(R"(
.type psi_fiber_switch,@function
psi_fiber_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp,(%rdi); movq %rsi,%rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
)");
static void* first_stack_pointer(char* top, void (*entry)()) {
  uint64_t* s = (uint64_t*)top;
  *--s = 0;
  *--s = (uint64_t)entry;
  for (int i = 0; i < 6; i++) *--s = 0;
  return s;
}
#elif defined(__aarch64__)
asm(R"(
.type psi_fiber_switch,%function
psi_fiber_switch:
  sub sp,sp,#160
  stp x19,x20,[sp,#0]; stp x21,x22,[sp,#16]; stp x23,x24,[sp,#32]; stp x25,x26,[sp,#48]; stp x27,x28,[sp,#64]
  stp x29,x30,[sp,#80]; stp d8,d9,[sp,#96]; stp d10,d11,[sp,#112]; stp d12,d13,[sp,#128]; stp d14,d15,[sp,#144]
  mov x9,sp; str x9,[x0]; mov sp,x1
  ldp x19,x20,[sp,#0]; ldp x21,x22,[sp,#16]; ldp x23,x24,[sp,#32]; ldp x25,x26,[sp,#48]; ldp x27,x28,[sp,#64]
  ldp x29,x30,[sp,#80]; ldp d8,d9,[sp,#96]; ldp d10,d11,[sp,#112]; ldp d12,d13,[sp,#128]; ldp d14,d15,[sp,#144]
  add sp,sp,#160
  ret
)");
static void* first_stack_pointer(char* top, void (*entry)()) {
  uint64_t* s = (uint64_t*)(top - 160);
  memset(s, 0, 160);
  s[11] = (uint64_t)entry;
  return s;
}
#endif

static void yield() { psi_fiber_switch(&self->stack_pointer, scheduler_stack_pointer); }

static bool opens(Barrier& b) {
  if (b.arrived < b.live) return false;
  b.arrived = 0;
  b.generation++;
  return true;
}

void wait(Barrier& b) {
  b.arrived++;
  if (opens(b)) return;
  self->waits_for = &b;
  self->waits_since = b.generation;
  yield();
}

void pause() { yield(); }

const char* exchange(const void* value, size_t bytes) {
  Fiber* f = self;
  f->parity ^= 1;
  char* slots = f->warp->slots[f->parity];
  memcpy(slots + f->lane * SLOT, value, bytes);
  wait(f->warp->barrier);
  return slots;
}

static void entry() {
  (*running)();
  Fiber* f = self;
  f->done = true;
  for (Barrier* b : {f->block, &f->warp->barrier}) {
    b->live--;
    if (b->live > 0 && b->arrived > 0) opens(*b);
  }
  yield();
  abort();
}

static thread_local char stop_text[512];
static thread_local bool stopped;

void stop(const char* text) {
  snprintf(stop_text, sizeof stop_text, "%s", text);
  stopped = true;
  yield();
  abort();
}

struct Stacks {
  char* memory = nullptr;
  size_t count = 0;
  ~Stacks() { release(); }
  void release() {
    if (memory) munmap(memory, STACK * count);
  }
  /* Tops at equal distances would all share one set of the cache. */
  char* top(int i) { return memory + STACK * (size_t)(i + 1) - 64 - i % 64 * 576; }
  void reserve(size_t threads) {
    if (threads <= count) return;
    release();
    void* m = mmap(nullptr, STACK * threads, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (m == MAP_FAILED) abort();
    memory = (char*)m;
    count = threads;
  }
};

static bool run_block(Dim grid, Dim index, Dim block, char* shared, char* error, size_t capacity) {
  static thread_local Stacks stacks;
  static thread_local std::vector<Fiber> fibers;
  static thread_local std::vector<Warp> warps;
  int threads = (int)(block.x * block.y * block.z);
  stacks.reserve(threads);
  fibers.assign(threads, {});
  warps.resize((threads + WARP - 1) / WARP);
  for (size_t w = 0; w < warps.size(); w++) {
    warps[w].lanes = std::min(WARP, threads - (int)w * WARP);
    warps[w].barrier = {warps[w].lanes, 0, 0};
  }
  Barrier all = {threads, 0, 0};
  for (int i = 0; i < threads; i++) {
    Fiber& f = fibers[i];
    f.stack_pointer = first_stack_pointer(stacks.top(i), entry);
    f.stack = stacks.memory + STACK * (size_t)i;
    f.warp = &warps[i / WARP];
    f.warps = warps.data();
    f.block = &all;
    f.lane = i % WARP;
    f.thread = i;
    f.thread_index = {i % block.x, i / block.x % block.y, i / (block.x * block.y)};
    f.block_index = index;
    f.block_size = block;
    f.grid_size = grid;
    f.shared = shared;
  }
  stopped = false;
  while (all.live > 0) {
    bool progress = false;
    for (Fiber& f : fibers) {
      if (f.done || (f.waits_for && f.waits_for->generation == f.waits_since)) continue;
      f.waits_for = nullptr;
      self = &f;
      psi_fiber_switch(&scheduler_stack_pointer, f.stack_pointer);
      progress = true;
      if (stopped) {
        snprintf(error, capacity, "%s", stop_text);
        return false;
      }
    }
    if (progress) continue;
    int at_block = 0, at_warp = 0;
    for (Fiber& f : fibers)
      if (!f.done) (f.waits_for == &all ? at_block : at_warp)++;
    snprintf(error, capacity, "block (%u,%u,%u): %d threads wait for their block, %d for their warp, %d have finished", index.x,
             index.y, index.z, at_block, at_warp, threads - at_block - at_warp);
    return false;
  }
  return true;
}

const char* run(Dim grid, Dim block, size_t shared_bytes, const std::function<void()>& body, unsigned workers) {
  static thread_local char error[512];
  std::atomic<uint64_t> next{0};
  std::atomic<bool> failed{false};
  const uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z;
  char* text = error;
  auto work = [&] {
    running = &body;
    std::vector<char> memory(shared_bytes + 1024);
    char* shared = (char*)(((uintptr_t)memory.data() + 1023) & ~(uintptr_t)1023);
    for (uint64_t b = next++; b < blocks && !failed; b = next++) {
      memset(shared, 0xff, shared_bytes);
      Dim index = {(unsigned)(b % grid.x), (unsigned)(b / grid.x % grid.y), (unsigned)(b / grid.x / grid.y)};
      char own[512];
      if (!run_block(grid, index, block, shared, own, sizeof own) && !failed.exchange(true)) memcpy(text, own, sizeof own);
    }
  };
  std::vector<std::thread> others;
  if (blocks * block.x * block.y * block.z > 4096)
    for (unsigned i = 1; i < std::min(workers, std::thread::hardware_concurrency()); i++) others.emplace_back(work);
  work();
  for (auto& t : others) t.join();
  return failed ? error : nullptr;
}

}  // namespace psi::standin
