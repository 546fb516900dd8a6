/*
 * Copies of many rows at once between the host, where they lie close together, and the device, where they stand a stride
 * apart: a page of a cache over all of its layers. What goes to the device lies in pinned memory that psi_host_alloc gave
 * and is waited for later; what comes from it is there when the call returns.
 */
#include "row_copies.h"

#include <string.h>

#include <vector>

#include "../../ffi/psionic_rows.h"
#include "launch.h"
#include "transfer.h"

namespace psi {

namespace {

constexpr int SENDS = 64;
constexpr size_t BOUNCE = 4 << 20;

cudaEvent_t sent[SENDS];
f64 last_ticket = 0;
u8* bounce = nullptr; /* pinned */
int largest_stride = 0; /* of rows of one copy; 0: not known yet */
std::vector<void*> given; /* by psi_host_alloc */

i32 checked(const char* where, cudaError_t error) { return error == cudaSuccess ? PSI_OK : cuda_failed(where, error); }

i32 check_rows(const char* where, const void* a, const void* b, f64 stride, f64 row_bytes, i32 rows) {
  if (!stream) return no_device(where);
  if (!a || !b) return fail(PSI_INVALID, "[%s] expected non-null pointers.", where);
  if (capturing) return fail(PSI_INVALID, "[%s] expected no copy from or to the host while a step is captured, got %d rows.", where, rows);
  if (rows < 1 || !(row_bytes >= 1) || !(stride >= row_bytes) || stride > 1e15)
    return fail(PSI_INVALID, "[%s] expected rows from 1 of bytes within their stride, got %d of %g in %g.", where, rows, row_bytes, stride);
  return PSI_OK;
}

/* A device copies rows of one call up to a stride of its own; beyond it they go one by one. */
cudaError_t copy_rows(u8* to, size_t to_stride, const u8* from, size_t from_stride, size_t bytes, i32 rows, cudaMemcpyKind kind) {
  if (largest_stride == 0) {
    int number = 0;
    cudaError_t error = cudaGetDevice(&number);
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&largest_stride, cudaDevAttrMaxPitch, number);
    if (error != cudaSuccess) return error;
  }
  if (to_stride <= (size_t)largest_stride && from_stride <= (size_t)largest_stride)
    return cudaMemcpy2DAsync(to, to_stride, from, from_stride, bytes, (size_t)rows, kind, stream);
  for (i32 r = 0; r < rows; r++) {
    cudaError_t error = cudaMemcpyAsync(to + r * to_stride, from + r * from_stride, bytes, kind, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace

void close_rows() {
  for (int i = 0; i < SENDS; i++) {
    if (sent[i]) cudaEventDestroy(sent[i]);
    sent[i] = nullptr;
  }
  if (bounce) cudaFreeHost(bounce);
  bounce = nullptr;
  for (void* memory : given) cudaFreeHost(memory);
  given.clear();
}

}  // namespace psi

using namespace psi;

PSI_API i32 psi_host_alloc(void* address, f64 bytes) {
  if (!stream) return no_device("psi_host_alloc");
  if (!address || !(bytes >= 1) || bytes > 1e12) return fail(PSI_INVALID, "[psi_host_alloc] expected a place and a size in bytes, got %g.", bytes);
  void* memory = nullptr;
  cudaError_t error = cudaHostAlloc(&memory, (size_t)bytes, cudaHostAllocDefault);
  if (error != cudaSuccess) {
    cudaGetLastError();
    return fail(PSI_NO_MEMORY, "[psi_host_alloc] expected %.0f bytes of pinned memory, got: %s.", bytes, cudaGetErrorString(error));
  }
  given.push_back(memory);
  *(void**)address = memory;
  return PSI_OK;
}

PSI_API i32 psi_host_free(void* memory) {
  for (size_t i = 0; i < given.size(); i++) {
    if (given[i] != memory) continue;
    given.erase(given.begin() + i);
    return checked("psi_host_free", cudaFreeHost(memory));
  }
  return fail(PSI_INVALID, "[psi_host_free] expected memory of psi_host_alloc, once, got another address.");
}

PSI_API i32 psi_send_rows(void* ticket, void* destination, f64 stride, const void* source, f64 row_bytes, i32 rows) {
  PSI_TRY(check_rows("psi_send_rows", destination, source, stride, row_bytes, rows));
  if (!ticket) return fail(PSI_INVALID, "[psi_send_rows] expected a place for the ticket, got null.");
  const f64 number = last_ticket + 1;
  const int place = (int)((u64)number % SENDS);
  if (!sent[place]) PSI_TRY(checked("psi_send_rows", cudaEventCreateWithFlags(&sent[place], cudaEventDisableTiming)));
  const size_t bytes = (size_t)row_bytes;
  PSI_TRY(checked("psi_send_rows",
                  copy_rows((u8*)destination, (size_t)stride, (const u8*)source, bytes, bytes, rows, cudaMemcpyHostToDevice)));
  PSI_TRY(checked("psi_send_rows", cudaEventRecord(sent[place], stream)));
  last_ticket = number;
  *(f64*)ticket = number;
  return PSI_OK;
}

PSI_API i32 psi_sent(f64 ticket) {
  if (!stream) return no_device("psi_sent");
  if (!(ticket >= 1 && ticket <= last_ticket))
    return fail(PSI_INVALID, "[psi_sent] expected a ticket up to number %.0f, got %.0f.", last_ticket, ticket);
  /* a later one in its place is behind it */
  return checked("psi_sent", cudaEventSynchronize(sent[(u64)ticket % SENDS]));
}

PSI_API i32 psi_receive_rows(void* destination, const void* source, f64 stride, f64 row_bytes, i32 rows) {
  PSI_TRY(check_rows("psi_receive_rows", destination, source, stride, row_bytes, rows));
  const size_t bytes = (size_t)row_bytes;
  if (bytes > BOUNCE) return fail(PSI_INVALID, "[psi_receive_rows] expected rows of up to %zu bytes, got %zu.", BOUNCE, bytes);
  if (!bounce) PSI_TRY(checked("psi_receive_rows", cudaHostAlloc((void**)&bounce, BOUNCE, cudaHostAllocDefault)));
  const i32 most = (i32)(BOUNCE / bytes);
  for (i32 row = 0; row < rows; row += most) {
    const i32 count = rows - row < most ? rows - row : most;
    PSI_TRY(checked("psi_receive_rows", copy_rows(bounce, bytes, (const u8*)source + (size_t)row * (size_t)stride, (size_t)stride, bytes, count,
                                                  cudaMemcpyDeviceToHost)));
    PSI_TRY(checked("psi_receive_rows", cudaStreamSynchronize(stream)));
    memcpy((u8*)destination + (size_t)row * bytes, bounce, (size_t)count * bytes);
  }
  return PSI_OK;
}
