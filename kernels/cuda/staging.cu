/*
 * psi_pack and psi_pack_file: raw rows go through a ring of pinned buffers to the device, where a kernel arranges them.
 * Several threads fill a buffer, since one alone copies from the page cache far below the rate of the bus; while one
 * buffer is filled the device copies those before it, each on a stream of its own, and arranges what has arrived on the
 * stream of all work: a copy waits neither for the one before it nor for a kernel.
 */
#include "staging.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "launch.h"
#include "pack.h"

namespace psi {

namespace {

constexpr i64 SLOT_BYTES = 8 << 20;
constexpr int SLOTS = 6;
constexpr i64 PIECE = 512 << 10;

struct Slot {
  u8* host = nullptr;
  u8* raw = nullptr; /* device */
  cudaStream_t own = nullptr;
  cudaEvent_t arrived = nullptr, used = nullptr;
  bool busy = false;
};

/* Threads that run the pieces of one job at a time together with the caller. */
class Crew {
 public:
  ~Crew() { stop(); }
  void run(i64 pieces, const std::function<void(i64)>& piece) {
    start();
    {
      std::lock_guard<std::mutex> lock(guard_);
      piece_ = &piece;
      pieces_ = pieces;
      next_ = 0;
      left_ = (int)threads_.size();
      job_++;
    }
    work_.notify_all();
    take();
    std::unique_lock<std::mutex> lock(guard_);
    done_.wait(lock, [&] { return left_ == 0; });
  }
  void stop() {
    {
      std::lock_guard<std::mutex> lock(guard_);
      ending_ = true;
    }
    work_.notify_all();
    for (auto& t : threads_) t.join();
    threads_.clear();
    ending_ = false;
  }

 private:
  void start() {
    if (!threads_.empty()) return;
    unsigned cores = std::thread::hardware_concurrency();
    unsigned count = cores < 2 ? 1 : cores > 9 ? 8 : cores - 1;
    for (unsigned i = 0; i < count; i++) threads_.emplace_back([this, seen = job_] { loop(seen); });
  }
  void take() {
    for (i64 i = next_++; i < pieces_; i = next_++) (*piece_)(i);
  }
  void loop(u64 seen) {
    for (;;) {
      {
        std::unique_lock<std::mutex> lock(guard_);
        work_.wait(lock, [&] { return ending_ || job_ != seen; });
        if (ending_) return;
        seen = job_;
      }
      take();
      std::lock_guard<std::mutex> lock(guard_);
      if (--left_ == 0) done_.notify_one();
    }
  }
  std::vector<std::thread> threads_;
  std::mutex guard_;
  std::condition_variable work_, done_;
  const std::function<void(i64)>* piece_ = nullptr;
  i64 pieces_ = 0;
  std::atomic<i64> next_{0};
  int left_ = 0;
  u64 job_ = 0;
  bool ending_ = false;
};

Slot slots[SLOTS];
int turn = 0;
Crew* crew = nullptr;

i32 checked(cudaError_t error) { return error == cudaSuccess ? PSI_OK : cuda_failed("psi_pack", error); }

/* The next slot, once the device has done with what was in it. */
i32 next_slot(Slot** out) {
  Slot& s = slots[turn];
  turn = (turn + 1) % SLOTS;
  if (!s.host) PSI_TRY(checked(cudaHostAlloc((void**)&s.host, SLOT_BYTES, cudaHostAllocDefault)));
  if (!s.raw) PSI_TRY(checked(cudaMalloc((void**)&s.raw, SLOT_BYTES)));
  if (!s.own) PSI_TRY(checked(cudaStreamCreateWithFlags(&s.own, cudaStreamNonBlocking)));
  if (!s.arrived) PSI_TRY(checked(cudaEventCreateWithFlags(&s.arrived, cudaEventDisableTiming)));
  if (!s.used) PSI_TRY(checked(cudaEventCreateWithFlags(&s.used, cudaEventDisableTiming)));
  if (s.busy) PSI_TRY(checked(cudaEventSynchronize(s.used)));
  s.busy = false;
  *out = &s;
  return PSI_OK;
}

using Fill = std::function<bool(u8* target, i64 from, i64 bytes)>; /* false: errno says why */

/* Brings a matrix to the device slice by slice, each of whole tiles; `fill` reads a range of its raw bytes. */
i32 bring(u8* destination, i32 rows, i32 columns, i32 dtype, const char* where, const Fill& fill) {
  if (!stream) return no_device(where);
  const TypeInfo* type;
  PSI_TRY(check_weight_type(where, dtype, columns, &type));
  if (rows < 1 || columns < 1) return fail(PSI_INVALID, "[%s] expected rows and columns from 1, got %d and %d.", where, rows, columns);
  if (!destination) return fail(PSI_INVALID, "[%s] expected a destination, got null.", where);
  i64 each = row_bytes(*type, columns);
  i64 slice = SLOT_BYTES / each / 16 * 16;
  if (slice == 0) return fail(PSI_UNSUPPORTED, "[%s] expected 16 rows within %lld bytes, got rows of %lld.", where, (long long)SLOT_BYTES, (long long)each);
  if (!crew) crew = new Crew;
  for (i64 row = 0; row < rows; row += slice) {
    i64 count = rows - row < slice ? rows - row : slice;
    Slot* s;
    PSI_TRY(next_slot(&s));
    i64 bytes = count * each;
    std::atomic<int> failed{0};
    crew->run((bytes + PIECE - 1) / PIECE, [&](i64 i) {
      i64 from = i * PIECE, size = bytes - from < PIECE ? bytes - from : PIECE;
      if (!fill(s->host + from, row * each + from, size)) failed = errno ? errno : EIO;
    });
    if (failed) return fail(PSI_IO, "[%s] expected %lld bytes from row %lld on, got: %s.", where, (long long)bytes, (long long)row, strerror(failed));
    PSI_TRY(checked(cudaMemcpyAsync(s->raw, s->host, (size_t)bytes, cudaMemcpyHostToDevice, s->own)));
    PSI_TRY(checked(cudaEventRecord(s->arrived, s->own)));
    PSI_TRY(checked(cudaStreamWaitEvent(stream, s->arrived, 0)));
    f64 before = 0;
    if (row > 0) PSI_TRY(psi_packed_bytes(&before, (i32)row, columns, dtype));
    PSI_TRY(pack_on_device(destination + (i64)before, s->raw, (i32)count, columns, dtype));
    PSI_TRY(checked(cudaEventRecord(s->used, stream)));
    s->busy = true;
  }
  return PSI_OK;
}

bool read_fully(int file, u8* target, i64 at, i64 bytes) {
  while (bytes > 0) {
    ssize_t n = pread(file, target, (size_t)bytes, (off_t)at);
    if (n < 0 && errno == EINTR) continue;
    if (n == 0) errno = ENODATA; /* the file became shorter */
    if (n <= 0) return false;
    target += n;
    at += n;
    bytes -= n;
  }
  return true;
}

}  // namespace

void close_staging() {
  delete crew;
  crew = nullptr;
  for (Slot& s : slots) {
    if (s.own) cudaStreamDestroy(s.own);
    if (s.arrived) cudaEventDestroy(s.arrived);
    if (s.used) cudaEventDestroy(s.used);
    if (s.raw) cudaFree(s.raw);
    if (s.host) cudaFreeHost(s.host);
    s = {};
  }
}

}  // namespace psi

using namespace psi;

PSI_API i32 psi_pack(void* destination, const void* source, i32 rows, i32 columns, i32 dtype) {
  if (!source) return fail(PSI_INVALID, "[psi_pack] expected a source, got null.");
  return bring((u8*)destination, rows, columns, dtype, "psi_pack", [&](u8* target, i64 from, i64 bytes) {
    memcpy(target, (const u8*)source + from, (size_t)bytes);
    return true;
  });
}

PSI_API i32 psi_pack_file(void* destination, const char* path, i32 rows, i32 columns, i32 dtype, f64 offset) {
  if (!path || !(offset >= 0)) return fail(PSI_INVALID, "[psi_pack_file] expected a path and an offset.");
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return fail(PSI_IO, "[psi_pack_file] expected to open %s, got: %s.", path, strerror(errno));
  i64 start = (i64)offset;
  i32 status = bring((u8*)destination, rows, columns, dtype, "psi_pack_file",
                     [&](u8* target, i64 from, i64 bytes) { return read_fully(file, target, start + from, bytes); });
  close(file);
  return status;
}
