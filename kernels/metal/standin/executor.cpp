/*
 * Runs translated Metal kernels on fibers (kernels/standin): the threads of a threadgroup are fibers of one thread of the
 * operating system. Barriers must be reached by all threads at the same place, simdgroup functions by all live lanes.
 */
#include "executor.h"

#include <stdio.h>
#include <string.h>

#include "../../standin/fiber.h"
#include "checks.h"
#include "kernel.h"

using psi::standin::self;

namespace psi_metal {

/* Made by the translation of all .metal files. */
extern const Library* const libraries[];
extern const bool checked;

Running running;
thread_local Group group;

void fault(const char* format, ...) {
  char what[384], text[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(what, sizeof what, format, arguments);
  va_end(arguments);
  auto t = self->thread_index, g = self->block_index;
  snprintf(text, sizeof text, "kernel %s, thread (%u,%u,%u) of threadgroup (%u,%u,%u): %s", running.name, t.x, t.y, t.z, g.x, g.y, g.z, what);
  psi::standin::stop(text);
}

static Place place(psi::standin::Dim d) { return {d.x, d.y, d.z}; }

BuiltIns built_ins() {
  const psi::standin::Fiber& f = *self;
  Place t = place(f.thread_index), g = place(f.block_index), size = place(f.block_size), groups = place(f.grid_size);
  BuiltIns b;
  b.thread_position_in_threadgroup = t;
  b.threadgroup_position_in_grid = g;
  b.thread_position_in_grid = {g.x * size.x + t.x, g.y * size.y + t.y, g.z * size.z + t.z};
  b.threads_per_threadgroup = size;
  b.threadgroups_per_grid = groups;
  b.threads_per_grid = {groups.x * size.x, groups.y * size.y, groups.z * size.z};
  b.thread_index_in_threadgroup = (unsigned)f.thread;
  b.thread_index_in_simdgroup = (unsigned)f.lane;
  b.simdgroup_index_in_threadgroup = (unsigned)f.thread / 32;
  b.simdgroups_per_threadgroup = (size.x * size.y * size.z + 31) / 32;
  return b;
}

unsigned lane() { return (unsigned)self->lane; }

void threadgroup_barrier(int fences) {
  const void* site = __builtin_return_address(0);
  psi::standin::Barrier& b = *self->block;
  if (b.live < running.threads) fault("waits at a threadgroup barrier, which a thread that has returned never reaches");
  if (b.arrived == 0) {
    group.site = site;
    group.first = self->thread;
  } else if (group.site != site) {
    fault("is at another threadgroup barrier than thread %d", group.first);
  }
  if (b.arrived + 1 == b.live) {
    if (fences & FENCE_THREADGROUP) group.epoch[THREADGROUP_MEMORY]++;
    if (fences & FENCE_DEVICE) group.epoch[DEVICE_MEMORY]++;
  }
  psi::standin::wait(b);
}

struct SlotHead {
  unsigned stamp;
  unsigned bytes;
  const void* site;
};
static_assert(sizeof(SlotHead) == 16 && 16 + SLOT_BYTES == psi::standin::SLOT, "a slot is a head and a value");

/* Who takes part in an exchange; found out once for all lanes. A lane that calls something else is the first. */
static Exchanged take_part(const psi::standin::Fiber* f, const char* slots, unsigned stamp) {
  Exchanged e = {running.number, stamp, 0, -1, nullptr};
  for (int i = 0; i < f->warp->lanes; i++) {
    SlotHead head;
    memcpy(&head, slots + i * psi::standin::SLOT, sizeof head);
    if (head.stamp != stamp) continue;
    if (e.first < 0) e.site = head.site;
    if (e.first < 0 || head.site != e.site) e.first = i;
    if (head.site != e.site) e.site = nullptr; /* no lane's own: whoever looks reports it */
    e.active |= 1u << i;
  }
  return e;
}

static Slots exchange_at(const void* site, const char* what, const void* value, unsigned bytes) {
  psi::standin::Fiber* f = self;
  unsigned stamp = f->warp->barrier.generation + 1;
  f->parity ^= 1;
  const char* slots = f->warp->slots[f->parity];
  char* own = (char*)slots + f->lane * psi::standin::SLOT;
  SlotHead head = {stamp, bytes, site};
  memcpy(own, &head, sizeof head);
  memcpy(own + sizeof head, value, bytes);
  psi::standin::wait(f->warp->barrier);
  Exchanged& e = group.exchanged[f->thread / 32];
  if (e.dispatch != running.number || e.stamp != stamp) e = take_part(f, slots, stamp);
  if (e.site != site) fault("calls %s where lane %d of its simdgroup calls something else", what, e.first);
  return {e.active, (unsigned)f->lane, slots};
}

Slots exchange(const char* what, const void* value, unsigned bytes) { return exchange_at(__builtin_return_address(0), what, value, bytes); }

void converge(const char* what) {
  if (checked) exchange_at(__builtin_return_address(0), what, "", 1);
}

void simdgroup_barrier(int fences) {
  psi::standin::Barrier& b = self->warp->barrier;
  if (b.arrived + 1 == b.live) {
    unsigned s = (unsigned)self->thread / 32;
    if (fences & FENCE_THREADGROUP) group.simd_epoch[THREADGROUP_MEMORY][s]++;
    if (fences & FENCE_DEVICE) group.simd_epoch[DEVICE_MEMORY][s]++;
  }
  exchange_at(__builtin_return_address(0), "simdgroup_barrier", "", 1);
}

/* ---- threadgroup memory ---- */

/* Between two variables lies a gap, so that running past one is seen. */
static const char* reserve(Group& g, int id, const char* name, unsigned bytes, unsigned alignment) {
  for (int i = 0; i < g.count; i++)
    if (g.memory[i].id == id) return g.memory[i].name ? self->shared + g.memory[i].offset : nullptr;
  unsigned at = (g.used + alignment - 1) / alignment * alignment;
  unsigned total = g.asked + bytes;
  if (total > STANDIN_THREADGROUP_BYTES) fault("expected at most %d bytes of threadgroup memory, got %u", STANDIN_THREADGROUP_BYTES, total);
  if (g.count == MOST_VARIABLES) fault("expected at most %d threadgroup variables, got more", MOST_VARIABLES);
  g.memory[g.count++] = {id, at, bytes, name};
  g.used = at + bytes + THREADGROUP_GAP;
  g.asked = total;
  return self->shared + at;
}

void* threadgroup_variable(int* id, const char* name, unsigned bytes, unsigned alignment) {
  static int next = 1000;
  if (*id == 0) *id = __atomic_add_fetch(&next, 1, __ATOMIC_RELAXED);
  return (void*)reserve(group, *id, name, bytes, alignment < 16 ? 16 : alignment);
}

static void begin_group(const StandinDispatch& d) {
  Group& g = group;
  if (g.dispatch != running.number) {
    g.dispatch = running.number;
    g.count = 0;
    g.used = g.asked = 0;
    memset(g.arguments.threadgroups, 0, sizeof g.arguments.threadgroups);
    for (int i = 0; i < STANDIN_ARGUMENTS; i++) {
      g.arguments.buffers[i] = d.buffers[i].address;
      if (d.threadgroup_bytes[i]) g.arguments.threadgroups[i] = (void*)reserve(g, i + 1, "[[threadgroup]]", d.threadgroup_bytes[i], 16);
    }
  }
  /* what threads of an earlier threadgroup did in this memory is no part of this one */
  for (auto& e : g.epoch) e++;
  for (auto& e : g.exchanged) e.stamp = 0;
}

/* ---- a dispatch ---- */

/* The fibers' own text, in Metal's words. */
static void stuck(char* error, size_t capacity, const char* text) {
  unsigned x = 0, y = 0, z = 0;
  int at_barrier = 0, in_simdgroup = 0, returned = 0;
  sscanf(text, "block (%u,%u,%u): %d threads wait for their block, %d for their warp, %d", &x, &y, &z, &at_barrier, &in_simdgroup, &returned);
  snprintf(error, capacity,
           "kernel %s, thread (%d,0,0) of threadgroup (%u,%u,%u): divergent barrier: %d threads wait at a threadgroup barrier, %d in a simdgroup "
           "function, %d have returned",
           running.name, at_barrier > 0 ? group.first : 0, x, y, z, at_barrier, in_simdgroup, returned);
}

static int refuse(char* error, size_t capacity, const char* name, const char* what) {
  snprintf(error, capacity, "kernel %s: %s", name, what);
  return 1;
}

static int run(const StandinDispatch& d, char* error, size_t capacity) {
  const Kernel& k = *(const Kernel*)d.kernel;
  unsigned threads = d.threads[0] * d.threads[1] * d.threads[2];
  if (threads == 0 || threads > STANDIN_GROUP_THREADS) return refuse(error, capacity, k.name, "expected 1 to 1024 threads in a threadgroup");
  running.name = k.name;
  running.threads = (int)threads;
  running.number++;
  running.arguments = 0;
  for (const BufferArgument* b = k.buffers; b->name; b++) {
    const StandinBuffer& given = d.buffers[b->index];
    running.ranges[running.arguments++] = {(const char*)given.address, given.bytes, b->index, b->writable, b->name, nullptr};
  }
  if (checked) begin_checks();
  size_t shared = STANDIN_THREADGROUP_BYTES + (MOST_VARIABLES + 1) * THREADGROUP_GAP;
  const char* text = psi::standin::run(
      {d.groups[0], d.groups[1], d.groups[2]}, {d.threads[0], d.threads[1], d.threads[2]}, shared,
      [&] {
        if (self->thread == 0) begin_group(d);
        k.call(&group.arguments);
        if (self->block->arrived > 0) fault("returns while thread %d waits at a threadgroup barrier", group.first);
      },
      checked ? 1 : 4);
  if (checked) end_checks();
  if (!text) return 0;
  if (strncmp(text, "kernel ", 7) == 0) snprintf(error, capacity, "%s", text);
  else stuck(error, capacity, text);
  return 1;
}

}  // namespace psi_metal

using namespace psi_metal;

extern "C" {

int standin_run(const StandinDispatch* dispatch, char* error, size_t capacity) { return run(*dispatch, error, capacity); }

const void* standin_library(const char* source) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char* c = source; *c; c++) hash = (hash ^ (uint8_t)*c) * 0x100000001b3u;
  for (const Library* const* l = libraries; *l; l++)
    if ((*l)->source_hash == hash) return *l;
  return nullptr;
}
const char* standin_stem(const void* library) { return ((const Library*)library)->stem; }
const void* standin_kernel(const void* library, const char* name) {
  for (const Kernel* k = ((const Library*)library)->kernels; k->name; k++)
    if (strcmp(k->name, name) == 0) return k;
  return nullptr;
}
const char* standin_kernel_name(const void* kernel) { return ((const Kernel*)kernel)->name; }
int standin_wants_buffer(const void* kernel, unsigned index) {
  for (const BufferArgument* b = ((const Kernel*)kernel)->buffers; b->name; b++)
    if (b->index == index) return b->writable ? 2 : 1;
  return 0;
}
int standin_wants_threadgroup(const void* kernel, unsigned index) { return ((const Kernel*)kernel)->threadgroups >> index & 1; }
const char* standin_constant(const void* library, unsigned position, unsigned* index, const char** type, int* optional) {
  const FunctionConstant& c = ((const Library*)library)->constants[position];
  if (!c.name) return nullptr;
  *index = c.index;
  *type = c.type;
  *optional = c.optional;
  return c.name;
}
void standin_set_constant(const void* library, unsigned position, const void* value) {
  const FunctionConstant& c = ((const Library*)library)->constants[position];
  size_t bytes = strcmp(c.type, "bool") == 0 ? 1 : 4;
  if (value) memcpy(c.value, value, bytes);
  else memset(c.value, 0, bytes);
  if (c.defined) *c.defined = value != nullptr;
}
int standin_checked(void) { return checked; }
}
