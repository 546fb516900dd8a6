/*
 * The device: open, memory, command buffers. One device and one queue for all work of a process.
 *
 * Memory is shared between processor and GPU, so that an address of this process is a tensor's address: a table of the
 * buffers gives Metal's buffer and the offset in it. Launches are encoded into a command buffer until psi_download,
 * psi_synchronize or a copy from the host needs their results, or it holds much work: a decode step is one, a long prompt
 * several, so that the GPU begins while the rest is encoded. Completion is polled for.
 */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shim.h"

id<MTLDevice> psi_device = nil;

static pthread_mutex_t opening = PTHREAD_MUTEX_INITIALIZER;
static id<MTLCommandQueue> queue;
static id<MTLBuffer> nothing;

/* ---- memory that stays in place: macOS 15, and an SDK that has it ---- */

#if __MAC_OS_X_VERSION_MAX_ALLOWED >= 150000
static id<MTLResidencySet> residency; /* null before macOS 15 */

static void open_residency(void) {
  Class descriptors = NSClassFromString(@"MTLResidencySetDescriptor");
  if (!descriptors || ![(id<NSObject>)psi_device respondsToSelector:@selector(newResidencySetWithDescriptor:error:)]) return;
  MTLResidencySetDescriptor* descriptor = [descriptors new];
  [descriptor setInitialCapacity:64];
  NSError* error = nil;
  residency = [psi_device newResidencySetWithDescriptor:descriptor error:&error];
  [descriptor release];
  if (!residency) return; /* without it the system makes memory resident step by step */
  [queue addResidencySet:residency];
  [residency requestResidency];
}

static void close_residency(void) {
  if (residency) [residency endResidency];
  [(id<NSObject>)residency release];
  residency = nil;
}

static void keep_resident(id<MTLBuffer> buffer, bool kept) {
  if (!residency) return;
  if (kept) [residency addAllocation:buffer];
  else [residency removeAllocation:buffer];
  [residency commit];
}

static bool has_residency(void) { return residency != nil; }
#else
static void open_residency(void) {}
static void close_residency(void) {}
static void keep_resident(id<MTLBuffer> buffer, bool kept) {}
static bool has_residency(void) { return false; }
#endif

/* ---- buffers by address ---- */

typedef struct {
  char *begin, *end;
  id<MTLBuffer> buffer;
  const void* mapping; /* of a file, whose pages the buffer has without a copy; null: memory of its own */
} BufferRange;

static BufferRange* regions; /* by begin, ascending; views of a mapping may overlap */
static i64 region_count, region_capacity;
static i64 last_hit;

static bool contains(const BufferRange* r, const char* p, f64 bytes) {
  return p >= r->begin && p <= r->end && bytes <= (f64)(r->end - p);
}

id<MTLBuffer> psi_find_buffer(const void* address, f64 bytes, NSUInteger* offset) {
  const char* p = address;
  i64 found = -1;
  if (last_hit < region_count && contains(&regions[last_hit], p, bytes)) {
    found = last_hit;
  } else {
    i64 low = 0, high = region_count; /* first region that begins after p */
    while (low < high) {
      i64 middle = (low + high) / 2;
      if (regions[middle].begin <= p) low = middle + 1;
      else high = middle;
    }
    for (i64 i = low - 1; i >= 0 && found < 0; i--) {
      if (contains(&regions[i], p, bytes)) found = i;
      else if (!regions[i].mapping) break; /* only views of a mapping overlap */
    }
  }
  if (found < 0) return nil;
  last_hit = found;
  *offset = (NSUInteger)(p - regions[found].begin);
  return regions[found].buffer;
}

f64 psi_bytes_after(const void* address) {
  NSUInteger offset;
  id<MTLBuffer> buffer = psi_find_buffer(address, 1, &offset);
  return buffer ? (f64)([buffer length] - offset) : 1; /* 1: not nothing, which would stand for what is not given */
}

static i32 add_region(char* begin, NSUInteger bytes, id<MTLBuffer> buffer, const void* mapping) {
  if (region_count == region_capacity) {
    i64 capacity = region_capacity ? 2 * region_capacity : 256;
    BufferRange* more = realloc(regions, (size_t)capacity * sizeof(BufferRange));
    if (!more) return psi_fail(PSI_NO_MEMORY, "[metal] expected room for %lld buffers, got none.", (long long)capacity);
    regions = more;
    region_capacity = capacity;
  }
  i64 at = region_count;
  while (at > 0 && regions[at - 1].begin > begin) at--;
  memmove(regions + at + 1, regions + at, (size_t)(region_count - at) * sizeof(BufferRange));
  regions[at] = (BufferRange){begin, begin + bytes, buffer, mapping};
  region_count++;
  keep_resident(buffer, true);
  return PSI_OK;
}

static void remove_region(i64 at) {
  keep_resident(regions[at].buffer, false);
  [regions[at].buffer release];
  region_count--;
  memmove(regions + at, regions + at + 1, (size_t)(region_count - at) * sizeof(BufferRange));
}

id<MTLBuffer> psi_nothing(void) { return nothing; }

/* ---- command buffers ---- */

enum { MOST_IN_FLIGHT = 8 };

static id<MTLCommandBuffer> filling;
static id<MTLComputeCommandEncoder> encoder;
static f64 filling_work;
static u64 committed; /* buffers since the device was opened */
static struct {
  id<MTLCommandBuffer> commands;
  char kernel[PSI_KERNEL_NAME]; /* its only one, where launches are measured */
} in_flight[MOST_IN_FLIGHT];
static int in_flight_count;
static char filling_kernel[PSI_KERNEL_NAME];

i32 psi_no_device(const char* where) { return psi_fail(PSI_INVALID, "[%s] expected an open device, got none. Call psi_open first.", where); }

id<MTLComputeCommandEncoder> psi_encoder(const char* where, i32* status) {
  if (encoder) return encoder;
  filling = [[queue commandBuffer] retain];
  encoder = [[filling computeCommandEncoder] retain];
  if (encoder) return encoder;
  [filling release];
  filling = nil;
  *status = psi_fail(PSI_FAILED, "[%s] expected a command buffer, got none.", where);
  return nil;
}

/* Waits for a buffer: spins for the length of a decode step, then lets the system wait. `status` is that of the first failure. */
static void finish(id<MTLCommandBuffer> commands, const char* kernel, i32* status) {
  for (int i = 0; i < 20000 && [commands status] < MTLCommandBufferStatusCompleted; i++)
    if (i % 16 == 15) sched_yield();
  if ([commands status] < MTLCommandBufferStatusCompleted) [commands waitUntilCompleted];
  if ([commands status] == MTLCommandBufferStatusError && *status == PSI_OK) {
    NSError* error = [commands error];
    *status = error && [error code] == MTLCommandBufferErrorOutOfMemory ? PSI_NO_MEMORY : PSI_FAILED;
    psi_fail(*status, "[metal] expected the GPU to finish its work, got: %s.", error ? [[error localizedDescription] UTF8String] : "an error without a text");
  }
  if (*kernel) psi_keep_time(kernel, commands);
  [commands release];
}

/* Commits what was encoded; the oldest buffer is waited for where there is no room. */
static void flush(i32* status) {
  if (!filling) return;
  [encoder endEncoding];
  [encoder release];
  encoder = nil;
  if (in_flight_count == MOST_IN_FLIGHT) {
    finish(in_flight[0].commands, in_flight[0].kernel, status);
    memmove(in_flight, in_flight + 1, sizeof in_flight - sizeof in_flight[0]);
    in_flight_count--;
  }
  [filling commit];
  in_flight[in_flight_count].commands = filling;
  memcpy(in_flight[in_flight_count++].kernel, filling_kernel, sizeof filling_kernel);
  filling_kernel[0] = 0;
  filling = nil;
  filling_work = 0;
  committed++;
}

/* Commits what was encoded and waits for everything, also after a failure; the first one is told. */
static i32 wait_for_all(void) {
  i32 status = PSI_OK;
  @autoreleasepool {
    flush(&status);
    for (int i = 0; i < in_flight_count; i++) finish(in_flight[i].commands, in_flight[i].kernel, &status);
    in_flight_count = 0;
  }
  return status;
}

i32 psi_encoded(const char* kernel, f64 work) {
  const bool measures = psi_measures();
  if (measures) snprintf(filling_kernel, sizeof filling_kernel, "%s", kernel);
  filling_work += work;
  if (filling_work < PSI_MOST_WORK && !measures) return PSI_OK;
  i32 status = PSI_OK;
  flush(&status);
  if (status == PSI_OK) return status;
  /* nobody will ask for the results of the others, which are of the same work */
  for (int i = 0; i < in_flight_count; i++) finish(in_flight[i].commands, in_flight[i].kernel, &status);
  in_flight_count = 0;
  return status;
}

static bool is_idle(void) { return !filling && in_flight_count == 0; }

/* ---- opening ---- */

/* Processes without a screen may have no default device where there is a GPU: then it is the first of all. */
static id<MTLDevice> first_device(void) {
  id<MTLDevice> device = MTLCreateSystemDefaultDevice();
#ifdef __APPLE__
  if (!device) {
    NSArray* all = MTLCopyAllDevices();
    if ([all count] > 0) device = [[all objectAtIndex:0] retain];
    [all release];
  }
#endif
  return device;
}

static i32 open_device(void) {
  psi_device = first_device();
  if (!psi_device) return psi_fail(PSI_UNSUPPORTED, "[metal] expected a Metal device, got none: the system lists no GPU.");
  const char* name = [[psi_device name] UTF8String];
  i32 status = PSI_OK;
  if (![psi_device hasUnifiedMemory] || ![psi_device supportsFamily:MTLGPUFamilyApple7])
    status = psi_fail(PSI_UNSUPPORTED, "[metal] expected a GPU of Apple silicon (family Apple7 or newer, unified memory), got %s.", name);
  if (status == PSI_OK) {
    queue = [psi_device newCommandQueue];
    nothing = [psi_device newBufferWithLength:256 options:MTLResourceStorageModeShared];
    if (!queue || !nothing) status = psi_fail(PSI_NO_MEMORY, "[metal] expected a command queue of %s, got none.", name);
  }
  if (status == PSI_OK) {
    open_residency();
    committed = 0;
    return PSI_OK;
  }
  [queue release];
  [nothing release];
  [(id<NSObject>)psi_device release];
  queue = nil;
  nothing = nil;
  psi_device = nil;
  return status;
}

PSI_API i32 psi_open(const char* isa, i32 number) {
  pthread_mutex_lock(&opening);
  i32 status = PSI_OK;
  if (psi_device) status = psi_fail(PSI_INVALID, "[psi_open] expected a closed device, got an open one. Call psi_close first.");
  else if (isa && *isa) status = psi_fail(PSI_INVALID, "[psi_open] expected no instruction set on Metal, got %s.", isa);
  else if (number != 0) status = psi_fail(PSI_INVALID, "[psi_open] expected device 0, the only one of a Mac, got %d.", number);
  else
    @autoreleasepool {
      status = open_device();
    }
  pthread_mutex_unlock(&opening);
  return status;
}

PSI_API i32 psi_close(void) {
  pthread_mutex_lock(&opening);
  i32 status = PSI_OK;
  if (psi_device) {
    status = wait_for_all();
    @autoreleasepool {
      while (region_count > 0) remove_region(region_count - 1);
      psi_release_pipelines();
      close_residency();
      [(id<NSObject>)nothing release];
      [(id<NSObject>)queue release];
      [(id<NSObject>)psi_device release];
    }
    nothing = nil;
    queue = nil;
    psi_device = nil;
  }
  pthread_mutex_unlock(&opening);
  return status;
}

/* Bytes of the working set that are not taken: it is advice, so that more may be. */
static u64 free_bytes(void) {
  u64 all = [psi_device recommendedMaxWorkingSetSize], taken = [psi_device currentAllocatedSize];
  return taken < all ? all - taken : 0;
}

/* MTLGPUFamilyMetal4, which SDKs before macOS 26 do not name. */
enum { FAMILY_METAL4 = 5002 };

static int gpu_family(void) {
  int family = 7;
  while (family < 20 && [psi_device supportsFamily:(MTLGPUFamily)(MTLGPUFamilyApple1 + family)]) family++;
  return family;
}

PSI_API i32 psi_info(void* out, i32 capacity) {
  if (!out || capacity < 1) return psi_fail(PSI_INVALID, "[psi_info] expected room for a text, got %d bytes.", capacity);
  if (!psi_device) return psi_no_device("psi_info");
  @autoreleasepool {
    const char* metal = [psi_device supportsFamily:(MTLGPUFamily)FAMILY_METAL4] ? "4" : [psi_device supportsFamily:MTLGPUFamilyMetal3] ? "3" : "2";
    snprintf(out, (size_t)capacity,
             "device=%s\ngpu_family=apple%d\nmetal=%s\nunified_memory=%d\nmemory_bytes=%llu\nmemory_free_bytes=%llu\nlargest_buffer_bytes=%lu\n"
             "threadgroup_memory_bytes=%lu\nresidency_sets=%d\ncommand_buffers=%llu\nkernels=%s\n",
             [[psi_device name] UTF8String], gpu_family(), metal, (int)[psi_device hasUnifiedMemory],
             (unsigned long long)[psi_device recommendedMaxWorkingSetSize],
             (unsigned long long)free_bytes(), [psi_device maxBufferLength], [psi_device maxThreadgroupMemoryLength], has_residency(),
             (unsigned long long)committed, psi_metallib_bytes > 0 ? "compiled" : "source");
#ifdef PSI_STANDIN
    const size_t length = strlen(out);
    snprintf((char*)out + length, (size_t)capacity - length, "standin=1\n");
#endif
  }
  return PSI_OK;
}

/* ---- memory ---- */

static i32 check_memory(const char* where, const void* a, const void* b, f64 bytes) {
  if (!psi_device) return psi_no_device(where);
  if (!(bytes >= 0) || bytes > 1e15) return psi_fail(PSI_INVALID, "[%s] expected a size in bytes, got %g.", where, bytes);
  if (bytes > 0 && (!a || !b)) return psi_fail(PSI_INVALID, "[%s] expected non-null pointers.", where);
  return PSI_OK;
}

PSI_API i32 psi_device_memory(void* available, void* total) {
  if (!available || !total) return psi_fail(PSI_INVALID, "[psi_device_memory] expected non-null pointers.");
  if (!psi_device) return psi_no_device("psi_device_memory");
  *(f64*)available = (f64)free_bytes();
  *(f64*)total = (f64)[psi_device recommendedMaxWorkingSetSize];
  return PSI_OK;
}

PSI_API i32 psi_alloc(void* address, f64 bytes) {
  PSI_TRY(check_memory("psi_alloc", address, address, bytes));
  NSUInteger size = bytes < 64 ? 64 : (NSUInteger)bytes, largest = [psi_device maxBufferLength];
  id<MTLBuffer> buffer = size > largest ? nil : [psi_device newBufferWithLength:size options:MTLResourceStorageModeShared];
  if (!buffer)
    return psi_fail(PSI_NO_MEMORY, "[psi_alloc] expected %.0f bytes of Metal memory, got none: %lu of %llu are taken, a buffer has at most %lu.", bytes,
                    [psi_device currentAllocatedSize], (unsigned long long)[psi_device recommendedMaxWorkingSetSize], largest);
  memset([buffer contents], 0, size);
  i32 status = add_region([buffer contents], size, buffer, NULL);
  if (status != PSI_OK) {
    [buffer release];
    return status;
  }
  *(void**)address = [buffer contents];
  return PSI_OK;
}

PSI_API i32 psi_free(void* address, f64 bytes) {
  PSI_TRY(check_memory("psi_free", address, address, bytes));
  for (i64 i = 0; i < region_count; i++) {
    if (regions[i].begin != (char*)address || regions[i].mapping) continue;
    /* work that was encoded holds on to the buffer by itself */
    remove_region(i);
    return PSI_OK;
  }
  return psi_fail(PSI_INVALID, "[psi_free] expected an address that psi_alloc gave, got %p.", address);
}

/*
 * Makes [address, address + bytes) of a mapped file usable where it lies. A view of the mapping is as large as Metal allows;
 * what crosses its end gets a view that begins at its own page.
 */
PSI_API i32 psi_adopt(const void* mapping, f64 mapping_bytes, const void* address, f64 bytes) {
  PSI_TRY(check_memory("psi_adopt", mapping, address, mapping_bytes));
  NSUInteger offset, page = (NSUInteger)sysconf(_SC_PAGESIZE), largest = [psi_device maxBufferLength] / page * page;
  char *begin = (char*)mapping, *p = (char*)address;
  if (p < begin || (f64)(p - begin) + bytes > mapping_bytes || (uintptr_t)mapping % page != 0)
    return psi_fail(PSI_INVALID, "[psi_adopt] expected bytes inside of a mapping that begins a page, got %.0f bytes at %p of %.0f.", bytes, address, mapping_bytes);
  if (psi_find_buffer(address, bytes, &offset)) return PSI_OK;
  NSUInteger all = ((NSUInteger)mapping_bytes + page - 1) / page * page;
  NSUInteger from = 0;
  for (int attempt = 0; attempt < 2; attempt++) {
    NSUInteger length = all - from < largest ? all - from : largest;
    if ((NSUInteger)(p - begin) >= from && (f64)(p - begin - (i64)from) + bytes <= (f64)length) {
      id<MTLBuffer> view = [psi_device newBufferWithBytesNoCopy:begin + from length:length options:MTLResourceStorageModeShared deallocator:NULL];
      if (!view || [view length] < length) { /* virtual machines give one of no length */
        const NSUInteger given = view ? [view length] : 0;
        [view release];
        return psi_fail(PSI_NO_MEMORY, "[psi_adopt] expected Metal to take %lu bytes of a mapped file, got %lu: a buffer has at most %lu.", length, given, largest);
      }
      i32 status = add_region(begin + from, length, view, mapping);
      if (status != PSI_OK) [view release];
      return status;
    }
    from = (NSUInteger)(p - begin) / page * page;
  }
  return psi_fail(PSI_NO_MEMORY, "[psi_adopt] expected at most %lu bytes, the largest buffer of this device, got %.0f.", largest, bytes);
}

/* Forgets a mapping, which the caller is about to unmap. */
PSI_API i32 psi_disown(const void* mapping) {
  if (!psi_device) return psi_no_device("psi_disown");
  PSI_TRY(wait_for_all());
  for (i64 i = region_count - 1; i >= 0; i--)
    if (regions[i].mapping == mapping && mapping) remove_region(i);
  return PSI_OK;
}

/* ---- copies: the host sees the same memory, but not before the GPU is done ---- */

PSI_API i32 psi_upload(void* destination, const void* source, f64 bytes) {
  PSI_TRY(check_memory("psi_upload", destination, source, bytes));
  if (bytes == 0) return PSI_OK;
  NSUInteger offset;
  if (!psi_find_buffer(destination, bytes, &offset)) return psi_fail(PSI_INVALID, "[psi_upload] expected %.0f bytes of device memory, got %p.", bytes, destination);
  if (!is_idle()) PSI_TRY(wait_for_all());
  memcpy(destination, source, (size_t)bytes);
  return PSI_OK;
}

PSI_API i32 psi_download(void* destination, const void* source, f64 bytes) {
  PSI_TRY(check_memory("psi_download", destination, source, bytes));
  PSI_TRY(wait_for_all());
  if (bytes > 0) memcpy(destination, source, (size_t)bytes);
  return PSI_OK;
}

PSI_API i32 psi_synchronize(void) {
  if (!psi_device) return psi_no_device("psi_synchronize");
  return wait_for_all();
}
