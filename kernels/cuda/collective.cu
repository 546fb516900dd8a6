/*
 * Sums over the devices of one host through NCCL, which is loaded when it is first asked for: one process a device. A shim,
 * since NCCL takes its 128-byte id by value. Order of sums is NCCL's, the same for the same ranks.
 */
#include <dlfcn.h>

#include "launch.h"

namespace psi {

struct CollectiveId {
  char bytes[128];
};

/* NCCL's functions as far as they are used, by the signatures of nccl.h 2. */
struct Nccl {
  void* library;
  int (*get_id)(CollectiveId*);
  int (*init_rank)(void** communicator, int ranks, CollectiveId id, int rank);
  int (*all_reduce)(const void*, void*, size_t, int type, int operation, void* communicator, cudaStream_t);
  int (*destroy)(void* communicator);
  const char* (*error_text)(int);
};

constexpr int NCCL_FLOAT32 = 7, NCCL_FLOAT64 = 8, NCCL_SUM = 0;
static Nccl nccl;
static void* communicator;

static i32 load_nccl(const char* where, const char* path) {
  if (nccl.library) return PSI_OK;
  Nccl n = {};
  n.library = dlopen(path && *path ? path : "libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
  if (!n.library) return fail(PSI_UNSUPPORTED, "[%s] expected NCCL (libnccl.so.2) to load, got: %s. Install it, or name its file.", where, dlerror());
  const struct { void** to; const char* name; } symbols[] = {
      {(void**)&n.get_id, "ncclGetUniqueId"},  {(void**)&n.init_rank, "ncclCommInitRank"},     {(void**)&n.all_reduce, "ncclAllReduce"},
      {(void**)&n.destroy, "ncclCommDestroy"}, {(void**)&n.error_text, "ncclGetErrorString"},
  };
  for (const auto& s : symbols) {
    *s.to = dlsym(n.library, s.name);
    if (!*s.to) return fail(PSI_UNSUPPORTED, "[%s] expected NCCL with %s, got a library without it.", where, s.name);
  }
  nccl = n;
  return PSI_OK;
}

static i32 nccl_status(const char* where, int status) {
  return status == 0 ? PSI_OK : fail(PSI_FAILED, "[%s] expected NCCL to succeed, got: %s.", where, nccl.error_text(status));
}

}  // namespace psi

PSI_API i32 psi_collective_id(void* id, const char* path) {
  using namespace psi;
  if (!id) return fail(PSI_INVALID, "[psi_collective_id] expected a place for 128 bytes, got null.");
  PSI_TRY(load_nccl("psi_collective_id", path));
  return nccl_status("psi_collective_id", nccl.get_id((CollectiveId*)id));
}

PSI_API i32 psi_collective_open(const void* id, const char* path, i32 rank, i32 ranks) {
  using namespace psi;
  if (!id || ranks < 1 || rank < 0 || rank >= ranks) return fail(PSI_INVALID, "[psi_collective_open] expected an id and a rank below the number of ranks, got rank %d of %d.", rank, ranks);
  if (!stream) return no_device("psi_collective_open");
  if (communicator) return fail(PSI_INVALID, "[psi_collective_open] expected no group yet, got one that is open.");
  PSI_TRY(load_nccl("psi_collective_open", path));
  CollectiveId value;
  memcpy(&value, id, sizeof value);
  return nccl_status("psi_collective_open", nccl.init_rank(&communicator, ranks, value, rank));
}

PSI_API i32 psi_all_reduce(void* data, i32 dtype, f64 count) {
  using namespace psi;
  if (!data || (dtype != F32 && dtype != F64) || !(count >= 0)) return fail(PSI_INVALID, "[psi_all_reduce] expected a pointer, f32 or f64 and a count of at least 0, got dtype %d, count %.0f.", dtype, count);
  if (!communicator) return fail(PSI_INVALID, "[psi_all_reduce] expected a group, got none. Call psi_collective_open first.");
  return nccl_status("psi_all_reduce", nccl.all_reduce(data, data, (size_t)count, dtype == F32 ? NCCL_FLOAT32 : NCCL_FLOAT64, NCCL_SUM, communicator, stream));
}

PSI_API i32 psi_collective_close(void) {
  using namespace psi;
  if (!communicator) return PSI_OK;
  void* closing = communicator;
  communicator = nullptr;
  return nccl_status("psi_collective_close", nccl.destroy(closing));
}
