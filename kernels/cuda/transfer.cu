/*
 * Copies of a step's inputs and results. A copy from or to ordinary memory makes the driver wait for the stream; through
 * pinned memory it is one more entry of the stream. Uploads go through a ring of segments, each used again once the
 * device has read it. A fetch is a copy to the host that is waited for later: the stream may run on meanwhile.
 *
 * A step's few words go by kernels: an upload's as arguments, a fetch's as stores to pinned memory. Between two recordings a
 * copy engine would have to wait for the one and be waited for by the other.
 */
#include "transfer.h"

#include <string.h>

namespace psi {

bool capturing = false;

namespace {

constexpr size_t SEGMENT = 1 << 20;
constexpr int SEGMENTS = 4;
constexpr size_t FETCH_BYTES = 256 << 10;
constexpr int FETCHES = 16;

u8* ring = nullptr; /* SEGMENTS segments, then FETCHES places */
cudaEvent_t sent[SEGMENTS], copied[FETCHES];
bool busy[SEGMENTS];
int segment = 0;
size_t filled = 0; /* bytes of the segment */
f64 tickets[FETCHES];
f64 last_ticket = 0;

i32 checked(const char* where, cudaError_t error) { return error == cudaSuccess ? PSI_OK : cuda_failed(where, error); }

i32 open_ring(const char* where) {
  if (ring) return PSI_OK;
  u8* memory = nullptr;
  PSI_TRY(checked(where, cudaHostAlloc((void**)&memory, SEGMENTS * SEGMENT + FETCHES * FETCH_BYTES, cudaHostAllocDefault)));
  for (int i = 0; i < SEGMENTS; i++) {
    PSI_TRY(checked(where, cudaEventCreateWithFlags(&sent[i], cudaEventDisableTiming)));
    busy[i] = false;
  }
  for (int i = 0; i < FETCHES; i++) {
    PSI_TRY(checked(where, cudaEventCreateWithFlags(&copied[i], cudaEventDisableTiming)));
    tickets[i] = 0;
  }
  segment = 0, filled = 0;
  ring = memory;
  return PSI_OK;
}

/* Words that a launch takes along, of the 4 KB its arguments may have. */
constexpr int FEW_WORDS = 64, MOST_WORDS = 960, WORD_THREADS = 256;

template <int WORDS>
struct SentWords {
  u32* to;
  i32 count;
  u32 words[WORDS];
};
template <int WORDS>
__global__ void send_words_kernel(const __grid_constant__ SentWords<WORDS> p) {
  let_next_start();
  wait_for_inputs();
  for (i32 i = threadIdx.x; i < p.count; i += WORD_THREADS) p.to[i] = p.words[i];
}
__global__ void copy_words_kernel(u32* to, const u32* from, i32 count) {
  let_next_start();
  wait_for_inputs();
  for (i32 i = threadIdx.x; i < count; i += WORD_THREADS) to[i] = from[i];
}

bool few_words(const void* a, const void* b, size_t bytes) { return bytes <= MOST_WORDS * 4 && (bytes | (uintptr_t)a | (uintptr_t)b) % 4 == 0; }

/* Kernels read page tables, positions and old keys before their inputs are there; the next one may do so when these are. */
i32 written(i32 status) {
  if (status == PSI_OK) copying_launch = launches;
  return status;
}

template <int WORDS>
i32 send_words(const char* where, void* to, const void* source, size_t bytes) {
  SentWords<WORDS> p;
  p.to = (u32*)to, p.count = (i32)(bytes / 4);
  memcpy(p.words, source, bytes);
  return written(launch(where, send_words_kernel<WORDS>, dim3(1), dim3(WORD_THREADS), 0, p));
}

/* Room in the ring, at most a segment. */
i32 take(const char* where, size_t bytes, u8** room) {
  if (filled + bytes > SEGMENT) {
    PSI_TRY(checked(where, cudaEventRecord(sent[segment], stream)));
    busy[segment] = true;
    segment = (segment + 1) % SEGMENTS, filled = 0;
    if (busy[segment]) PSI_TRY(checked(where, cudaEventSynchronize(sent[segment])));
    busy[segment] = false;
  }
  *room = ring + segment * SEGMENT + filled;
  filled += (bytes + 63) / 64 * 64;
  return PSI_OK;
}

}  // namespace

bool sent_pinned(size_t bytes) { return bytes <= SEGMENTS * SEGMENT; }

i32 send_pinned(const char* where, void* destination, const void* source, size_t bytes) {
  if (few_words(destination, nullptr, bytes))
    return bytes <= FEW_WORDS * 4 ? send_words<FEW_WORDS>(where, destination, source, bytes) : send_words<MOST_WORDS>(where, destination, source, bytes);
  PSI_TRY(open_ring(where));
  for (size_t at = 0; at < bytes; at += SEGMENT) {
    const size_t size = bytes - at < SEGMENT ? bytes - at : SEGMENT;
    u8* room;
    PSI_TRY(take(where, size, &room));
    memcpy(room, (const u8*)source + at, size);
    PSI_TRY(checked(where, cudaMemcpyAsync((u8*)destination + at, room, size, cudaMemcpyHostToDevice, stream)));
  }
  return PSI_OK;
}

i32 copy_words(const char* where, void* destination, const void* source, size_t bytes) {
  if (few_words(destination, source, bytes))
    return written(launch(where, copy_words_kernel, dim3(bytes > 0), dim3(WORD_THREADS), 0, (u32*)destination, (const u32*)source, (i32)(bytes / 4)));
  return checked(where, cudaMemcpyAsync(destination, source, bytes, cudaMemcpyDeviceToDevice, stream));
}

void close_transfers() {
  if (!ring) return;
  for (cudaEvent_t event : sent) cudaEventDestroy(event);
  for (cudaEvent_t event : copied) cudaEventDestroy(event);
  cudaFreeHost(ring);
  ring = nullptr;
}

}  // namespace psi

using namespace psi;

PSI_API i32 psi_fetch(void* ticket, const void* source, f64 bytes) {
  if (!stream) return no_device("psi_fetch");
  if (!ticket || !source) return fail(PSI_INVALID, "[psi_fetch] expected non-null pointers.");
  if (!(bytes >= 1) || bytes > (f64)FETCH_BYTES)
    return fail(PSI_INVALID, "[psi_fetch] expected 1 to %zu bytes, got %g.", FETCH_BYTES, bytes);
  if (capturing) return fail(PSI_INVALID, "[psi_fetch] expected no copy to the host while a step is captured, got %g bytes.", bytes);
  PSI_TRY(open_ring("psi_fetch"));
  const f64 number = last_ticket + 1;
  const int place = (int)((u64)number % FETCHES);
  u8* target = ring + SEGMENTS * SEGMENT + place * FETCH_BYTES;
  if (few_words(source, nullptr, (size_t)bytes))
    PSI_TRY(launch("psi_fetch", copy_words_kernel, dim3(1), dim3(WORD_THREADS), 0, (u32*)target, (const u32*)source, (i32)(bytes / 4)));
  else
    PSI_TRY(checked("psi_fetch", cudaMemcpyAsync(target, source, (size_t)bytes, cudaMemcpyDeviceToHost, stream)));
  PSI_TRY(checked("psi_fetch", cudaEventRecord(copied[place], stream)));
  last_ticket = tickets[place] = number;
  *(f64*)ticket = number;
  return PSI_OK;
}

PSI_API i32 psi_fetched(void* destination, f64 ticket, f64 bytes) {
  if (!stream) return no_device("psi_fetched");
  if (!destination) return fail(PSI_INVALID, "[psi_fetched] expected a non-null pointer.");
  if (!(ticket >= 1 && ticket <= last_ticket) || !ring || tickets[(u64)ticket % FETCHES] != ticket)
    return fail(PSI_INVALID, "[psi_fetched] expected one of the last %d fetches, up to number %.0f, got %.0f.", FETCHES, last_ticket, ticket);
  if (!(bytes >= 1) || bytes > (f64)FETCH_BYTES)
    return fail(PSI_INVALID, "[psi_fetched] expected 1 to %zu bytes, got %g.", FETCH_BYTES, bytes);
  const int place = (int)((u64)ticket % FETCHES);
  PSI_TRY(checked("psi_fetched", cudaEventSynchronize(copied[place])));
  memcpy(destination, ring + SEGMENTS * SEGMENT + place * FETCH_BYTES, (size_t)bytes);
  return PSI_OK;
}
