/*
 * An emulated Metal device: objects with the methods that the shim calls, kernels run by executor.cpp when a command buffer
 * is committed. It refuses what a real device refuses, in the command buffer's error.
 * PSI_STANDIN_MEMORY and PSI_STANDIN_BUFFER (bytes) set its working set and its largest buffer; PSI_STANDIN_NONE=1: no device;
 * PSI_STANDIN_NO_VIEWS=1: buffers over memory that is there have no length, as on virtual machines.
 */
#import <Metal/Metal.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "device.h"
#include "executor.h"
#import "foundation.h"

enum { PAGE = 16384, MOST_BYTES = 4096, CONSTANTS = 64 };

static NSUInteger setting(const char* name, NSUInteger otherwise) {
  const char* text = getenv(name);
  return text ? (NSUInteger)strtoull(text, NULL, 10) : otherwise;
}
static NSUInteger allocated;
static NSUInteger working_set(void) { return setting("PSI_STANDIN_MEMORY", 8ul << 30); }
static NSUInteger largest_buffer(void) { return setting("PSI_STANDIN_BUFFER", 4ul << 30); }

@implementation MTLCompileOptions
- (void)setFastMathEnabled:(BOOL)enabled {
}
- (void)setLanguageVersion:(MTLLanguageVersion)version {
}
@end
@implementation MTLResidencySetDescriptor
- (void)setInitialCapacity:(NSUInteger)count {
}
@end

typedef struct {
  MTLDataType type;
  char value[4];
} ConstantValue;

@implementation MTLFunctionConstantValues
- (id)init {
  values = calloc(CONSTANTS, sizeof(ConstantValue));
  return self;
}
- (void)setConstantValue:(const void*)value type:(MTLDataType)type atIndex:(NSUInteger)index {
  ConstantValue* v = values;
  if (index >= CONSTANTS) abort();
  v[index].type = type;
  memcpy(v[index].value, value, type == MTLDataTypeBool ? 1 : 4);
}
- (void)dealloc {
  free(values);
  [super dealloc];
}
@end

@interface StandinBufferObject : NSObject <MTLBuffer> {
 @public
  char* memory;
  NSUInteger length;
  BOOL owned;
}
@end
@implementation StandinBufferObject
- (void*)contents {
  return memory;
}
- (NSUInteger)length {
  return length;
}
- (void)dealloc {
  __atomic_sub_fetch(&allocated, length, __ATOMIC_RELAXED);
  if (owned) free(memory);
  [super dealloc];
}
@end

@interface StandinFunction : NSObject <MTLFunction> {
 @public
  const void *library, *kernel;
  ConstantValue values[CONSTANTS];
}
@end
@implementation StandinFunction
- (NSString*)name {
  return [NSString stringWithUTF8String:standin_kernel_name(kernel)];
}
@end

@interface StandinPipeline : NSObject <MTLComputePipelineState> {
 @public
  StandinFunction* function;
}
@end
@implementation StandinPipeline
- (NSUInteger)maxTotalThreadsPerThreadgroup {
  return STANDIN_GROUP_THREADS;
}
- (NSUInteger)threadExecutionWidth {
  return 32;
}
- (NSUInteger)staticThreadgroupMemoryLength {
  return 0;
}
- (void)dealloc {
  [function release];
  [super dealloc];
}
@end

@interface StandinLibrary : NSObject <MTLLibrary> {
 @public
  const void* library;
}
@end
/* What Metal says where a constant that a function uses has no value, or one of another type. */
static BOOL constants_fit(const void* library, const ConstantValue* values, char* text, size_t capacity) {
  unsigned index;
  const char *type, *name;
  int optional;
  for (unsigned i = 0; (name = standin_constant(library, i, &index, &type, &optional)); i++) {
    MTLDataType wanted = strcmp(type, "bool") == 0    ? MTLDataTypeBool
                         : strcmp(type, "int") == 0   ? MTLDataTypeInt
                         : strcmp(type, "float") == 0 ? MTLDataTypeFloat
                                                      : MTLDataTypeUInt;
    if (values[index].type == wanted || (values[index].type == 0 && optional)) continue;
    snprintf(text, capacity, "function constant %s at index %u: expected a value of type %s, got %s", name, index, type,
             values[index].type == 0 ? "none" : "another type");
    return NO;
  }
  return YES;
}
@implementation StandinLibrary
- (id<MTLFunction>)newFunctionWithName:(NSString*)name constantValues:(MTLFunctionConstantValues*)given error:(NSError**)error {
  char text[256];
  const void* kernel = standin_kernel(library, [name UTF8String]);
  BOOL fits = kernel && constants_fit(library, given->values, text, sizeof text);
  if (!kernel) snprintf(text, sizeof text, "no function %s in the library", [name UTF8String]);
  if (!fits) {
    if (error) *error = standin_error(text, 1);
    return nil;
  }
  StandinFunction* f = [StandinFunction new];
  f->library = library;
  f->kernel = kernel;
  memcpy(f->values, given->values, CONSTANTS * sizeof(ConstantValue));
  return f;
}
@end

typedef struct {
  StandinPipeline* pipeline;
  StandinDispatch dispatch;
  StandinBufferObject* buffers[STANDIN_ARGUMENTS];
  char* bytes[STANDIN_ARGUMENTS];
} Work;

@interface StandinCommands : NSObject <MTLCommandBuffer> {
 @public
  Work* works;
  int count, capacity;
  MTLCommandBufferStatus state;
  NSError* failure;
  char refused[256];
  CFTimeInterval begun, ended;
}
@end

@interface StandinEncoder : NSObject <MTLComputeCommandEncoder> {
 @public
  Work work; /* what is bound now; a dispatch takes a copy */
  StandinCommands* commands;
  BOOL ended;
}
@end

static void refuse(StandinCommands* c, const char* format, const char* name, unsigned long a, unsigned long b) {
  if (!c->refused[0]) snprintf(c->refused, sizeof c->refused, format, name, a, b);
}
static const char* name_of(Work* w) { return w->pipeline ? standin_kernel_name(w->pipeline->function->kernel) : "(none)"; }

static void release_work(Work* w) {
  [w->pipeline release];
  for (int i = 0; i < STANDIN_ARGUMENTS; i++) {
    [w->buffers[i] release];
    free(w->bytes[i]);
  }
}

static void check_dispatch(StandinCommands* c, Work* w) {
  StandinDispatch* d = &w->dispatch;
  const char* name = name_of(w);
  if (!w->pipeline) {
    refuse(c, "%s: a dispatch without a pipeline%.0lu%.0lu", name, 0, 0);
    return;
  }
  unsigned long threads = (unsigned long)d->threads[0] * d->threads[1] * d->threads[2], memory = 0;
  if (threads == 0 || threads > STANDIN_GROUP_THREADS)
    refuse(c, "kernel %s: expected 1 to %lu threads in a threadgroup, got %lu", name, STANDIN_GROUP_THREADS, threads);
  for (unsigned i = 0; i < STANDIN_ARGUMENTS; i++) {
    memory += d->threadgroup_bytes[i];
    if (standin_wants_buffer(d->kernel, i) && !w->buffers[i] && !w->bytes[i])
      refuse(c, "kernel %s: expected a buffer at index %lu, got none%.0lu", name, i, 0);
    if (standin_wants_threadgroup(d->kernel, i) && d->threadgroup_bytes[i] == 0)
      refuse(c, "kernel %s: expected a length of threadgroup memory at index %lu, got none%.0lu", name, i, 0);
  }
  if (memory > STANDIN_THREADGROUP_BYTES)
    refuse(c, "kernel %s: expected at most %lu bytes of threadgroup memory, got %lu", name, STANDIN_THREADGROUP_BYTES, memory);
}

@implementation StandinEncoder
- (void)setComputePipelineState:(id<MTLComputePipelineState>)p {
  [p retain];
  [work.pipeline release];
  work.pipeline = (StandinPipeline*)p;
  work.dispatch.kernel = work.pipeline->function->kernel;
}
- (void)place:(void*)address bytes:(NSUInteger)bytes buffer:(StandinBufferObject*)buffer copy:(char*)copy at:(NSUInteger)index {
  if (index >= STANDIN_ARGUMENTS) {
    refuse(commands, "kernel %s: expected a buffer index below %lu, got %lu", name_of(&work), STANDIN_ARGUMENTS, index);
    free(copy);
    return;
  }
  [buffer retain];
  [work.buffers[index] release];
  free(work.bytes[index]);
  work.buffers[index] = buffer;
  work.bytes[index] = copy;
  work.dispatch.buffers[index].address = address;
  work.dispatch.buffers[index].bytes = bytes;
}
- (void)setBuffer:(id<MTLBuffer>)b offset:(NSUInteger)offset atIndex:(NSUInteger)index {
  StandinBufferObject* buffer = (StandinBufferObject*)b;
  if (offset > buffer->length) refuse(commands, "kernel %s: expected an offset of at most %lu, got %lu", name_of(&work), buffer->length, offset);
  else [self place:buffer->memory + offset bytes:buffer->length - offset buffer:buffer copy:NULL at:index];
}
- (void)setBytes:(const void*)p length:(NSUInteger)length atIndex:(NSUInteger)index {
  if (length > MOST_BYTES) {
    refuse(commands, "kernel %s: expected at most %lu bytes of parameters, got %lu", name_of(&work), MOST_BYTES, length);
    return;
  }
  char* copy = NULL;
  if (posix_memalign((void**)&copy, 64, length + 64) != 0) abort();
  memcpy(copy, p, length);
  [self place:copy bytes:length buffer:nil copy:copy at:index];
}
- (void)setThreadgroupMemoryLength:(NSUInteger)length atIndex:(NSUInteger)index {
  if (index >= STANDIN_ARGUMENTS) refuse(commands, "kernel %s: expected a threadgroup index below %lu, got %lu", name_of(&work), STANDIN_ARGUMENTS, index);
  else if (length % 16 != 0) refuse(commands, "kernel %s: expected threadgroup memory in multiples of %lu bytes, got %lu", name_of(&work), 16, length);
  else work.dispatch.threadgroup_bytes[index] = (unsigned)length;
}
- (void)dispatchThreadgroups:(MTLSize)g threadsPerThreadgroup:(MTLSize)t {
  StandinCommands* c = commands;
  StandinDispatch* d = &work.dispatch;
  d->groups[0] = (unsigned)g.width;
  d->groups[1] = (unsigned)g.height;
  d->groups[2] = (unsigned)g.depth;
  d->threads[0] = (unsigned)t.width;
  d->threads[1] = (unsigned)t.height;
  d->threads[2] = (unsigned)t.depth;
  check_dispatch(c, &work);
  if (c->count == c->capacity) {
    c->capacity = c->capacity ? c->capacity * 2 : 64;
    c->works = realloc(c->works, (size_t)c->capacity * sizeof(Work));
  }
  Work* w = &c->works[c->count++];
  *w = work;
  [w->pipeline retain];
  for (int i = 0; i < STANDIN_ARGUMENTS; i++) {
    [w->buffers[i] retain];
    if (!work.bytes[i]) continue;
    size_t n = d->buffers[i].bytes;
    if (posix_memalign((void**)&w->bytes[i], 64, n + 64) != 0) abort();
    memcpy(w->bytes[i], work.bytes[i], n);
    w->dispatch.buffers[i].address = w->bytes[i];
  }
}
- (void)endEncoding {
  ended = YES;
}
- (void)dealloc {
  release_work(&work);
  [super dealloc];
}
@end

void standin_limit(void* encoder, unsigned index, size_t bytes) {
  StandinEncoder* e = (StandinEncoder*)encoder;
  if (index < STANDIN_ARGUMENTS && bytes < e->work.dispatch.buffers[index].bytes) e->work.dispatch.buffers[index].bytes = bytes;
}

/* One dispatch at a time: constants of a library are variables. */
static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;

static int run_work(Work* w, char* text, size_t capacity) {
  StandinFunction* f = w->pipeline->function;
  unsigned index;
  const char* type;
  int optional;
  pthread_mutex_lock(&one);
  for (unsigned i = 0; standin_constant(f->library, i, &index, &type, &optional); i++)
    standin_set_constant(f->library, i, f->values[index].type ? f->values[index].value : NULL);
  int failed = standin_run(&w->dispatch, text, capacity);
  pthread_mutex_unlock(&one);
  return failed;
}

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

@implementation StandinCommands
- (id<MTLComputeCommandEncoder>)computeCommandEncoder {
  StandinEncoder* e = [StandinEncoder new];
  e->commands = self;
  return [e autorelease];
}
- (void)commit {
  begun = seconds();
  [self run];
  ended = seconds();
}
- (CFTimeInterval)GPUStartTime {
  return begun;
}
- (CFTimeInterval)GPUEndTime {
  return ended;
}
- (void)run {
  char text[600] = "";
  state = MTLCommandBufferStatusCompleted;
  if (refused[0]) snprintf(text, sizeof text, "%s", refused);
  for (int i = 0; i < count && !text[0]; i++) run_work(&works[i], text, sizeof text);
  if (!text[0]) return;
  state = MTLCommandBufferStatusError;
  NSAutoreleasePool* pool = [NSAutoreleasePool new];
  failure = [standin_error(text, 3) retain];
  [pool drain];
}
- (void)waitUntilCompleted {
}
- (MTLCommandBufferStatus)status {
  return state;
}
- (NSError*)error {
  return failure;
}
- (void)dealloc {
  for (int i = 0; i < count; i++) release_work(&works[i]);
  free(works);
  [failure release];
  [super dealloc];
}
@end

@interface StandinResidency : NSObject <MTLResidencySet> {
 @public
  int allocations;
}
@end
@implementation StandinResidency
- (void)addAllocation:(id<MTLBuffer>)allocation {
  allocations++;
}
- (void)removeAllocation:(id<MTLBuffer>)allocation {
  if (allocations-- <= 0) abort();
}
- (void)commit {
}
- (void)requestResidency {
}
- (void)endResidency {
}
@end

@interface StandinQueue : NSObject <MTLCommandQueue>
@end
@implementation StandinQueue
- (id<MTLCommandBuffer>)commandBuffer {
  return [[StandinCommands new] autorelease];
}
- (void)addResidencySet:(id<MTLResidencySet>)set {
}
@end

@interface StandinDevice : NSObject <MTLDevice>
@end
@implementation StandinDevice
- (NSString*)name {
  return standin_checked() ? @"CPU stand-in with checks" : @"CPU stand-in";
}
- (BOOL)hasUnifiedMemory {
  return YES;
}
- (BOOL)supportsFamily:(MTLGPUFamily)family {
  return family >= MTLGPUFamilyApple1 && family <= MTLGPUFamilyApple7;
}
- (uint64_t)recommendedMaxWorkingSetSize {
  return working_set();
}
- (NSUInteger)currentAllocatedSize {
  return __atomic_load_n(&allocated, __ATOMIC_RELAXED);
}
- (NSUInteger)maxBufferLength {
  return largest_buffer();
}
- (NSUInteger)maxThreadgroupMemoryLength {
  return STANDIN_THREADGROUP_BYTES;
}
- (id<MTLCommandQueue>)newCommandQueue {
  return [StandinQueue new];
}
- (StandinBufferObject*)buffer:(void*)memory length:(NSUInteger)length owned:(BOOL)owned {
  StandinBufferObject* b = [StandinBufferObject new];
  b->memory = memory;
  b->length = length;
  b->owned = owned;
  __atomic_add_fetch(&allocated, length, __ATOMIC_RELAXED);
  return b;
}
- (id<MTLBuffer>)newBufferWithLength:(NSUInteger)length options:(MTLResourceOptions)options {
  if (length == 0 || length > largest_buffer() || allocated + length > working_set()) return nil;
  void* memory = NULL;
  if (posix_memalign(&memory, PAGE, (length + PAGE - 1) / PAGE * PAGE) != 0) return nil;
  return [self buffer:memory length:length owned:YES];
}
- (id<MTLBuffer>)newBufferWithBytesNoCopy:(void*)bytes
                                   length:(NSUInteger)length
                                  options:(MTLResourceOptions)options
                              deallocator:(void (^)(void*, NSUInteger))deallocator {
  if (deallocator || (uintptr_t)bytes % 4096 != 0 || length % 4096 != 0 || length == 0 || length > largest_buffer()) return nil;
  return [self buffer:bytes length:getenv("PSI_STANDIN_NO_VIEWS") ? 0 : length owned:NO];
}
- (id<MTLLibrary>)newLibraryWithSource:(NSString*)source options:(MTLCompileOptions*)options error:(NSError**)error {
  const void* found = standin_library([source UTF8String]);
  if (!found) {
    if (error) *error = standin_error("the source is not what the stand-in was built from", 3);
    return nil;
  }
  StandinLibrary* l = [StandinLibrary new];
  l->library = found;
  return l;
}
- (id<MTLLibrary>)newLibraryWithData:(id)data error:(NSError**)error {
  if (error) *error = standin_error("the stand-in takes source only", 3);
  return nil;
}
- (id<MTLComputePipelineState>)newComputePipelineStateWithFunction:(id<MTLFunction>)f error:(NSError**)error {
  StandinPipeline* p = [StandinPipeline new];
  p->function = [(StandinFunction*)f retain];
  return p;
}
- (id<MTLResidencySet>)newResidencySetWithDescriptor:(MTLResidencySetDescriptor*)descriptor error:(NSError**)error {
  return [StandinResidency new];
}
@end

id<MTLDevice> MTLCreateSystemDefaultDevice(void) { return getenv("PSI_STANDIN_NONE") ? nil : [StandinDevice new]; }
