/*
 * Sums over the devices of one host through NCCL, which is loaded when it is first asked for: one process a device. A shim,
 * since NCCL takes its 128-byte id by value. Order of sums is NCCL's, the same for the same ranks.
 */
#include <dlfcn.h>

#include "../../ffi/psionic_group.h"
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

/* Where sums run beside the backward pass: a stream with events that tie it to the one of all other work. */
struct Side {
  cudaStream_t stream;
  cudaEvent_t made, summed;
  void* mark;
};
static Side side;

static void close_side() {
  if (side.mark) cudaFree(side.mark);
  if (side.summed) cudaEventDestroy(side.summed);
  if (side.made) cudaEventDestroy(side.made);
  if (side.stream) cudaStreamDestroy(side.stream);
  side = {};
}

/* Of the highest priority: its kernels are small, and both devices wait for them. */
static cudaError_t make_stream(cudaStream_t* made) {
#if defined(PSI_STANDIN)
  return cudaStreamCreateWithFlags(made, cudaStreamNonBlocking);
#else
  int least = 0, greatest = 0;
  const cudaError_t error = cudaDeviceGetStreamPriorityRange(&least, &greatest);
  return error == cudaSuccess ? cudaStreamCreateWithPriority(made, cudaStreamNonBlocking, greatest) : error;
#endif
}

static i32 open_side(const char* where) {
  cudaError_t error = make_stream(&side.stream);
  if (error == cudaSuccess) error = cudaEventCreateWithFlags(&side.made, cudaEventDisableTiming);
  if (error == cudaSuccess) error = cudaEventCreateWithFlags(&side.summed, cudaEventDisableTiming);
  if (error == cudaSuccess) error = cudaMalloc(&side.mark, 4);
  if (error == cudaSuccess) return PSI_OK;
  close_side();
  return cuda_failed(where, error);
}

/* What `later` gets from now on waits for what `earlier` has got; while a step is captured, in the graph. */
static i32 follows(const char* where, cudaStream_t later, cudaStream_t earlier, cudaEvent_t event) {
  cudaError_t error = cudaEventRecord(event, earlier);
  if (error == cudaSuccess) error = cudaStreamWaitEvent(later, event, 0);
  return error == cudaSuccess ? PSI_OK : cuda_failed(where, error);
}

static i32 no_group(const char* where) { return fail(PSI_INVALID, "[%s] expected a group, got none. Call psi_collective_open first.", where); }

static i32 check_reduced(const char* where, void* data, i32 dtype, f64 count) {
  if (!data || (dtype != F32 && dtype != F64) || !(count >= 0)) return fail(PSI_INVALID, "[%s] expected a pointer, f32 or f64 and a count of at least 0, got dtype %d, count %.0f.", where, dtype, count);
  return communicator ? PSI_OK : no_group(where);
}

static i32 all_reduce(const char* where, void* data, i32 dtype, f64 count, cudaStream_t on) {
  const int type = dtype == F32 ? NCCL_FLOAT32 : NCCL_FLOAT64;
#if defined(PSI_STANDIN) /* the stand-in of NCCL knows nothing of captures */
  standin::enqueue([=] {
    if (nccl.all_reduce(data, data, (size_t)count, type, NCCL_SUM, communicator, on) != 0) standin::failure = "a sum of the group that failed";
  });
  if (!standin::failure) return PSI_OK;
  standin::failure = nullptr;
  return fail(PSI_FAILED, "[%s] expected the stand-in of NCCL to succeed.", where);
#else
  return nccl_status(where, nccl.all_reduce(data, data, (size_t)count, type, NCCL_SUM, communicator, on));
#endif
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
  PSI_TRY(open_side("psi_collective_open"));
  CollectiveId value;
  memcpy(&value, id, sizeof value);
  const i32 status = nccl_status("psi_collective_open", nccl.init_rank(&communicator, ranks, value, rank));
  if (status != PSI_OK) close_side();
  return status;
}

PSI_API i32 psi_all_reduce(void* data, i32 dtype, f64 count) {
  using namespace psi;
  PSI_TRY(check_reduced("psi_all_reduce", data, dtype, count));
  return all_reduce("psi_all_reduce", data, dtype, count, stream);
}

PSI_API i32 psi_all_reduce_start(void* data, i32 dtype, f64 count) {
  using namespace psi;
  PSI_TRY(check_reduced("psi_all_reduce_start", data, dtype, count));
  PSI_TRY(follows("psi_all_reduce_start", side.stream, stream, side.made));
  return all_reduce("psi_all_reduce_start", data, dtype, count, side.stream);
}

PSI_API i32 psi_all_reduce_join(void) {
  using namespace psi;
  if (!communicator) return no_group("psi_all_reduce_join");
  PSI_TRY(follows("psi_all_reduce_join", stream, side.stream, side.summed));
  /* kernels start early after a kernel: this is what the next one comes after */
  const cudaError_t error = cudaMemsetAsync(side.mark, 0, 4, stream);
  return error == cudaSuccess ? PSI_OK : cuda_failed("psi_all_reduce_join", error);
}

PSI_API i32 psi_collective_close(void) {
  using namespace psi;
  if (!communicator) return PSI_OK;
  void* closing = communicator;
  communicator = nullptr;
  const i32 status = nccl_status("psi_collective_close", nccl.destroy(closing));
  close_side();
  return status;
}
