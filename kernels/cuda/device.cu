/*
 * The device: open, memory, copies, captured graphs. One device and one stream for all work of a process.
 *
 * Everything is enqueued in order on `stream`; psi_download and psi_synchronize wait for it and report what a kernel
 * before them did wrong.
 */
#include <limits.h>
#include <stdio.h>

#include <mutex>
#include <unordered_map>

#include "columns.h"
#include "cublaslt.h"
#include "launch.h"
#include "row_copies.h"
#include "staging.h"
#include "transfer.h"

namespace psi {

cudaStream_t stream = nullptr;
u64 launches = 0;
u64 copying_launch = ~0ull;
DeviceFacts device = {};

namespace {

std::mutex opening;
bool is_open = false;
int number = 0;
cudaDeviceProp properties;
/* Results of a step are small and come back through pinned memory, which is the fast way for a few bytes. */
constexpr size_t BOUNCE = 1 << 20;
void* bounce = nullptr;

/* Leaves nothing of a device that did not open. */
i32 given_up(i32 status) {
  if (bounce) cudaFreeHost(bounce);
  if (stream) cudaStreamDestroy(stream);
  bounce = nullptr, stream = nullptr;
  return status;
}

i32 open_device(i32 wanted) {
  int count = 0;
  cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    const char* reason = error == cudaSuccess ? "the driver lists none" : cudaGetErrorString(error);
    return fail(PSI_UNSUPPORTED, "[cuda] expected a CUDA device, got none: %s (driver for CUDA %d.%d, library built with %d.%d).", reason,
                driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
  }
  if (wanted < 0 || wanted >= count) return fail(PSI_INVALID, "[cuda] expected a device number from 0 to %d, got %d.", count - 1, wanted);
  error = cudaSetDevice(wanted);
  if (error == cudaSuccess) error = cudaGetDeviceProperties(&properties, wanted);
  if (error == cudaSuccess) error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  if (error == cudaSuccess) error = cudaHostAlloc(&bounce, BOUNCE, cudaHostAllocDefault);
  if (error != cudaSuccess)
    return given_up(fail(PSI_UNSUPPORTED, "[cuda] expected device %d to open, got: %s.", wanted, cudaGetErrorString(error)));
  number = wanted;
  device = {properties.multiProcessorCount, 10 * properties.major + properties.minor, (i64)properties.sharedMemPerBlockOptin,
            (i64)properties.l2CacheSize};
  if (device.compute < 80)
    return given_up(fail(PSI_UNSUPPORTED, "[cuda] expected a device of compute capability 8.0 or newer, got %s with %d.%d.", properties.name,
                         properties.major, properties.minor));
  const i32 status = open_columns("psi_open");
  return status == PSI_OK ? status : given_up(status);
}

i32 checked(const char* where, cudaError_t error) { return error == cudaSuccess ? PSI_OK : cuda_failed(where, error); }

i32 check_memory(const char* where, const void* a, const void* b, f64 bytes) {
  if (!is_open) return no_device(where);
  if (!(bytes >= 0) || bytes > 1e15) return fail(PSI_INVALID, "[%s] expected a size in bytes, got %g.", where, bytes);
  if (bytes > 0 && (!a || !b)) return fail(PSI_INVALID, "[%s] expected non-null pointers.", where);
  return PSI_OK;
}

}  // namespace

/* A launch that was refused leaves the device as it was; after any other failure no call on it succeeds any more. */
i32 cuda_failed(const char* where, cudaError_t error) {
  bool refused = error == cudaErrorInvalidValue || error == cudaErrorInvalidConfiguration || error == cudaErrorLaunchOutOfResources;
  i32 status = error == cudaErrorMemoryAllocation ? PSI_NO_MEMORY : refused ? PSI_INVALID : PSI_FAILED;
  return fail(status, "[%s] expected CUDA to go on, got: %s.", where, cudaGetErrorString(error));
}

i32 no_device(const char* where) {
  return fail(PSI_INVALID, "[%s] expected an open device, got none. Call psi_open first.", where);
}

#if !defined(PSI_STANDIN)
i32 launch_failed(const char* op, cudaError_t error, dim3 grid, dim3 block, size_t shared_bytes) {
  cudaGetLastError();
  return fail(PSI_INVALID, "[%s] expected CUDA to launch %u x %u x %u blocks of %u threads with %zu bytes of shared memory, got: %s.", op, grid.x,
              grid.y, grid.z, block.x * block.y * block.z, shared_bytes, cudaGetErrorString(error));
}

i32 allow_shared(const char* op, const void* kernel, size_t bytes) {
  static std::mutex guard;
  static std::unordered_map<const void*, size_t> allowed;
  std::lock_guard<std::mutex> lock(guard);
  size_t& most = allowed[kernel];
  if (bytes <= most) return PSI_OK;
  cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
  if (error != cudaSuccess) return launch_failed(op, error, dim3(0), dim3(0), bytes);
  most = bytes;
  return PSI_OK;
}
#endif

}  // namespace psi

using namespace psi;

PSI_API i32 psi_abi_version(void) { return PSI_ABI_VERSION; }
PSI_API const char* psi_last_error(void) { return last_error(); }

PSI_API i32 psi_open(const char* isa, i32 device_number) {
  std::lock_guard<std::mutex> lock(opening);
  if (is_open) return fail(PSI_INVALID, "[psi_open] expected a closed device, got an open one. Call psi_close first.");
  if (isa && *isa) return fail(PSI_INVALID, "[psi_open] expected no instruction set on CUDA, got %s.", isa);
  PSI_TRY(open_device(device_number));
  is_open = true;
  return PSI_OK;
}

PSI_API i32 psi_close(void) {
  std::lock_guard<std::mutex> lock(opening);
  if (!is_open) return PSI_OK;
  is_open = false;
  cudaError_t error = cudaStreamSynchronize(stream);
  close_staging();
  close_transfers();
  close_rows();
  close_columns();
  close_cublaslt();
  return given_up(checked("psi_close", error));
}

PSI_API i32 psi_info(void* out, i32 capacity) {
  if (!out || capacity < 1) return fail(PSI_INVALID, "[psi_info] expected room for a text, got %d bytes.", capacity);
  if (!is_open) return no_device("psi_info");
  size_t available = 0, total = 0;
  PSI_TRY(checked("psi_info", cudaMemGetInfo(&available, &total)));
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  snprintf((char*)out, (size_t)capacity,
           "device=%s\ndevice_number=%d\ncompute=%d.%d\nmultiprocessors=%d\nl2_bytes=%lld\nmemory_bytes=%lld\nmemory_free_bytes=%lld\n"
           "driver_cuda=%d.%d\nlibrary_cuda=%d.%d\n",
           properties.name, number, device.compute / 10, device.compute % 10, device.multiprocessors, (long long)device.l2_bytes,
           (long long)total, (long long)available, driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
  return PSI_OK;
}

PSI_API i32 psi_device_memory(void* available, void* total) {
  if (!available || !total) return fail(PSI_INVALID, "[psi_device_memory] expected non-null pointers.");
  if (!is_open) return no_device("psi_device_memory");
  size_t a = 0, t = 0;
  PSI_TRY(checked("psi_device_memory", cudaMemGetInfo(&a, &t)));
  *(f64*)available = (f64)a;
  *(f64*)total = (f64)t;
  return PSI_OK;
}

PSI_API i32 psi_alloc(void* address, f64 bytes) {
  PSI_TRY(check_memory("psi_alloc", address, address, bytes));
  if (capturing) return fail(PSI_INVALID, "[psi_alloc] expected no allocation while a step is captured, got %g bytes.", bytes);
  size_t size = bytes < 1 ? 1 : (size_t)bytes;
  void* p = nullptr;
  cudaError_t error = cudaMalloc(&p, size);
  if (error != cudaSuccess) {
    cudaGetLastError();
    size_t available = 0, total = 0;
    cudaMemGetInfo(&available, &total);
    return fail(PSI_NO_MEMORY, "[psi_alloc] expected %.0f bytes of device memory, got %zu free of %zu (%s).", bytes, available, total,
                cudaGetErrorString(error));
  }
  error = cudaMemsetAsync(p, 0, size, stream);
  if (error != cudaSuccess) {
    cudaFree(p);
    return cuda_failed("psi_alloc", error);
  }
  *(void**)address = p;
  return PSI_OK;
}

PSI_API i32 psi_free(void* address, f64 bytes) {
  PSI_TRY(check_memory("psi_free", address, address, bytes));
  return checked("psi_free", cudaFree(address));
}

PSI_API i32 psi_copy(void* destination, const void* source, f64 bytes) {
  PSI_TRY(check_memory("psi_copy", destination, source, bytes));
  return copy_words("psi_copy", destination, source, (size_t)bytes);
}

PSI_API i32 psi_upload(void* destination, const void* source, f64 bytes) {
  PSI_TRY(check_memory("psi_upload", destination, source, bytes));
  if (capturing) return fail(PSI_INVALID, "[psi_upload] expected no copy from the host while a step is captured, got %g bytes.", bytes);
  if (sent_pinned((size_t)bytes)) return send_pinned("psi_upload", destination, source, (size_t)bytes);
  return checked("psi_upload", cudaMemcpyAsync(destination, source, (size_t)bytes, cudaMemcpyHostToDevice, stream));
}

PSI_API i32 psi_download(void* destination, const void* source, f64 bytes) {
  PSI_TRY(check_memory("psi_download", destination, source, bytes));
  if (capturing) return fail(PSI_INVALID, "[psi_download] expected no copy to the host while a step is captured, got %g bytes.", bytes);
  size_t size = (size_t)bytes;
  void* target = size <= BOUNCE ? bounce : destination;
  PSI_TRY(checked("psi_download", cudaMemcpyAsync(target, source, size, cudaMemcpyDeviceToHost, stream)));
  PSI_TRY(checked("psi_download", cudaStreamSynchronize(stream)));
  if (target == bounce) memcpy(destination, bounce, size);
  return PSI_OK;
}

PSI_API i32 psi_synchronize(void) {
  if (!is_open) return no_device("psi_synchronize");
  return checked("psi_synchronize", cudaStreamSynchronize(stream));
}

PSI_API i32 psi_capture_begin(void) {
  if (!is_open) return no_device("psi_capture_begin");
  if (capturing) return fail(PSI_INVALID, "[psi_capture_begin] expected no capture under way, got one.");
  PSI_TRY(checked("psi_capture_begin", cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal)));
  capturing = true;
  return PSI_OK;
}

PSI_API i32 psi_capture_end(void* graph) {
  if (!graph) return fail(PSI_INVALID, "[psi_capture_end] expected a place for the graph, got null.");
  if (!capturing) return fail(PSI_INVALID, "[psi_capture_end] expected a capture under way, got none.");
  capturing = false;
  cudaGraph_t recorded = nullptr;
  PSI_TRY(checked("psi_capture_end", cudaStreamEndCapture(stream, &recorded)));
  cudaGraphExec_t executable = nullptr;
  cudaError_t error = cudaGraphInstantiate(&executable, recorded, 0);
  cudaGraphDestroy(recorded);
  PSI_TRY(checked("psi_capture_end", error));
  *(void**)graph = executable;
  return PSI_OK;
}

PSI_API i32 psi_graph_launch(void* graph) {
  if (!is_open) return no_device("psi_graph_launch");
  if (!graph) return fail(PSI_INVALID, "[psi_graph_launch] expected a graph, got null.");
  return checked("psi_graph_launch", cudaGraphLaunch((cudaGraphExec_t)graph, stream));
}

PSI_API i32 psi_graph_free(void* graph) {
  if (!graph) return fail(PSI_INVALID, "[psi_graph_free] expected a graph, got null.");
  return checked("psi_graph_free", cudaGraphExecDestroy((cudaGraphExec_t)graph));
}
