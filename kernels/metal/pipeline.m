/*
 * Kernels by name: the library (compiled and embedded, else compiled here from the embedded source, one file at its first
 * use), pipelines cached by kernel and function constants, and launches.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shim.h"
#ifdef PSI_STANDIN
#include "standin/device.h"
#endif

enum { PIPELINE_SLOTS = 4096 }; /* a power of two, far above what there is */

typedef struct {
  char* key; /* stem/kernel and the constants */
  id<MTLComputePipelineState> pipeline;
} Pipeline;

static Pipeline pipelines[PIPELINE_SLOTS];
static id<MTLLibrary> compiled;
static id<MTLLibrary> from_source[512];

static const char* words_of(NSError* error) {
  return error ? [[error localizedDescription] UTF8String] : "no reason was given";
}

#ifdef __APPLE__
static id<MTLLibrary> embedded_library(NSError** error) {
  id data = dispatch_data_create(psi_metallib, psi_metallib_bytes, nil, NULL);
  id<MTLLibrary> library = [psi_device newLibraryWithData:data error:error];
  [data release];
  return library;
}
#else
static id<MTLLibrary> embedded_library(NSError** error) { return [psi_device newLibraryWithData:nil error:error]; }
#endif

static id<MTLLibrary> library_of(const char* stem, i32* status) {
  NSError* error = nil;
  if (psi_metallib_bytes > 0) {
    if (!compiled) compiled = embedded_library(&error);
    if (!compiled) *status = psi_fail(PSI_FAILED, "[metal] expected the compiled kernels to load, got: %s.", words_of(error));
    return compiled;
  }
  for (int i = 0; psi_sources[i].stem; i++) {
    if (strcmp(psi_sources[i].stem, stem) != 0) continue;
    if (from_source[i]) return from_source[i];
    MTLCompileOptions* options = [MTLCompileOptions new];
    [options setFastMathEnabled:NO];
    [options setLanguageVersion:MTLLanguageVersion3_0];
    from_source[i] = [psi_device newLibraryWithSource:[NSString stringWithUTF8String:psi_sources[i].source] options:options error:&error];
    [options release];
    if (!from_source[i]) *status = psi_fail(PSI_FAILED, "[metal] expected %s.metal to compile, got: %s.", stem, words_of(error));
    return from_source[i];
  }
  *status = psi_fail(PSI_UNSUPPORTED, "[metal] expected kernels of %s in this library, got none.", stem);
  return nil;
}

static id<MTLComputePipelineState> make_pipeline(const PsiLaunch* l, i32* status) {
  id<MTLLibrary> library = library_of(l->stem, status);
  if (!library) return nil;
  MTLFunctionConstantValues* values = [MTLFunctionConstantValues new];
  for (NSUInteger i = 0; i < PSI_CONSTANTS; i++) {
    const PsiConstant* c = &l->constants[i];
    bool flag = c->bits != 0;
    MTLDataType type = c->type == 'b' ? MTLDataTypeBool : c->type == 'i' ? MTLDataTypeInt : c->type == 'u' ? MTLDataTypeUInt : MTLDataTypeFloat;
    if (c->type) [values setConstantValue:c->type == 'b' ? (const void*)&flag : (const void*)&c->bits type:type atIndex:i];
  }
  NSError* error = nil;
  id<MTLFunction> function = [library newFunctionWithName:[NSString stringWithUTF8String:l->kernel] constantValues:values error:&error];
  [values release];
  if (!function) {
    *status = psi_fail(PSI_FAILED, "[metal] expected kernel %s of %s.metal, got: %s.", l->kernel, l->stem, words_of(error));
    return nil;
  }
  id<MTLComputePipelineState> pipeline = [psi_device newComputePipelineStateWithFunction:function error:&error];
  [function release];
  if (!pipeline) *status = psi_fail(PSI_FAILED, "[metal] expected a pipeline for kernel %s, got: %s.", l->kernel, words_of(error));
  return pipeline;
}

static size_t key_of(const PsiLaunch* l, char* key, size_t capacity) {
  size_t n = (size_t)snprintf(key, capacity, "%s/%s", l->stem, l->kernel);
  for (int i = 0; i < PSI_CONSTANTS && n < capacity; i++)
    if (l->constants[i].type) n += (size_t)snprintf(key + n, capacity - n, " %d%c%x", i, l->constants[i].type, l->constants[i].bits);
  return n;
}

static id<MTLComputePipelineState> pipeline_of(const PsiLaunch* l, i32* status) {
  char key[512];
  size_t length = key_of(l, key, sizeof key);
  u32 hash = 2166136261u;
  for (size_t i = 0; i < length && key[i]; i++) hash = (hash ^ (u8)key[i]) * 16777619u;
  u32 slot = hash % PIPELINE_SLOTS;
  for (; pipelines[slot].key; slot = (slot + 1) % PIPELINE_SLOTS)
    if (strcmp(pipelines[slot].key, key) == 0) return pipelines[slot].pipeline;
  id<MTLComputePipelineState> made = make_pipeline(l, status);
  if (made) pipelines[slot] = (Pipeline){strdup(key), made};
  return made;
}

void psi_release_pipelines(void) {
  for (int i = 0; i < PIPELINE_SLOTS; i++) {
    [pipelines[i].pipeline release];
    free(pipelines[i].key);
    pipelines[i] = (Pipeline){NULL, nil};
  }
  for (int i = 0; psi_sources[i].stem; i++) {
    [from_source[i] release];
    from_source[i] = nil;
  }
  [compiled release];
  compiled = nil;
}

/* ---- what a launch is given ---- */

PsiLaunch psi_kernel(const char* stem, const char* kernel) {
  PsiLaunch l;
  memset(&l, 0, sizeof l);
  l.stem = stem;
  l.kernel = kernel;
  l.params_index = -1;
  l.work = 16;
  return l;
}

static bool fits(PsiLaunch* l, const char* what, i32 index, i32 count) {
  if (index >= 0 && index < count) return true;
  if (l->status == PSI_OK) l->status = psi_fail(PSI_INVALID, "[metal] expected %s indices of kernel %s below %d, got %d.", what, l->kernel, count, index);
  return false;
}

void psi_read(PsiLaunch* l, i32 index, const void* address, f64 bytes) {
  if (fits(l, "buffer", index, PSI_BUFFERS)) l->buffers[index] = (PsiBound){address, bytes, true};
}
void psi_write(PsiLaunch* l, i32 index, void* address, f64 bytes) { psi_read(l, index, address, bytes); }

void psi_params(PsiLaunch* l, i32 index, const void* params, size_t bytes) {
  if (!fits(l, "buffer", index, PSI_BUFFERS) || !fits(l, "parameter", (i32)bytes, PSI_PARAMS_BYTES + 1)) return;
  l->params_index = index;
  l->params_bytes = (u32)bytes;
  memcpy(l->params, params, bytes);
}

void psi_threadgroup(PsiLaunch* l, i32 index, i64 bytes) {
  if (!fits(l, "threadgroup", index, PSI_BUFFERS)) return;
  bool small = bytes >= 0 && bytes <= 1 << 20;
  if (!small && l->status == PSI_OK) l->status = psi_fail(PSI_INVALID, "[metal] expected a length of threadgroup memory for kernel %s, got %lld.", l->kernel, (long long)bytes);
  if (small) l->threadgroup_bytes[index] = (u32)(bytes + 15) / 16 * 16;
}

static void constant(PsiLaunch* l, i32 index, char type, u32 bits) {
  if (fits(l, "constant", index, PSI_CONSTANTS)) l->constants[index] = (PsiConstant){type, bits};
}
void psi_constant_bool(PsiLaunch* l, i32 index, bool value) { constant(l, index, 'b', value); }
void psi_constant_int(PsiLaunch* l, i32 index, i32 value) { constant(l, index, 'i', (u32)value); }
void psi_constant_uint(PsiLaunch* l, i32 index, u32 value) { constant(l, index, 'u', value); }
void psi_constant_float(PsiLaunch* l, i32 index, f32 value) {
  u32 bits;
  memcpy(&bits, &value, 4);
  constant(l, index, 'f', bits);
}

/* ---- launches ---- */

static i32 check_limits(const PsiLaunch* l, id<MTLComputePipelineState> pipeline, i64 threads) {
  NSUInteger most = [pipeline maxTotalThreadsPerThreadgroup];
  if (threads < 1 || (NSUInteger)threads > most)
    return psi_fail(PSI_INVALID, "[metal] expected 1 to %lu threads in a threadgroup of kernel %s, got %lld.", most, l->kernel, (long long)threads);
  NSUInteger memory = [pipeline staticThreadgroupMemoryLength], limit = [psi_device maxThreadgroupMemoryLength];
  for (int i = 0; i < PSI_BUFFERS; i++) memory += l->threadgroup_bytes[i];
  if (memory > limit)
    return psi_fail(PSI_INVALID, "[metal] expected at most %lu bytes of threadgroup memory for kernel %s, got %lu.", limit, l->kernel, memory);
  return PSI_OK;
}

static i32 bind_arguments(const PsiLaunch* l, id<MTLComputeCommandEncoder> encoder) {
  for (i32 i = 0; i < PSI_BUFFERS; i++) {
    const PsiBound* b = &l->buffers[i];
    if (!b->bound) continue;
    NSUInteger offset = 0;
    bool given = b->address && b->bytes > 0;
    id<MTLBuffer> buffer = given ? psi_find_buffer(b->address, b->bytes, &offset) : psi_nothing();
    if (!buffer)
      return psi_fail(PSI_INVALID, "[metal] expected device memory for the %.0f bytes of buffer %d of kernel %s, got %p, which is in none, or only in part.",
                      b->bytes, i, l->kernel, b->address);
    [encoder setBuffer:buffer offset:offset atIndex:(NSUInteger)i];
#ifdef PSI_STANDIN
    standin_limit((void*)encoder, (unsigned)i, given ? (size_t)b->bytes : 0);
#endif
  }
  if (l->params_index >= 0) [encoder setBytes:l->params length:l->params_bytes atIndex:(NSUInteger)l->params_index];
  for (i32 i = 0; i < PSI_BUFFERS; i++)
    if (l->threadgroup_bytes[i]) [encoder setThreadgroupMemoryLength:l->threadgroup_bytes[i] atIndex:(NSUInteger)i];
  return PSI_OK;
}

static i32 encode(PsiLaunch* l, MTLSize groups, MTLSize threads) {
  i32 status = PSI_OK;
  id<MTLComputePipelineState> pipeline = pipeline_of(l, &status);
  if (!pipeline) return status;
  PSI_TRY(check_limits(l, pipeline, (i64)threads.width * (i64)threads.height * (i64)threads.depth));
  id<MTLComputeCommandEncoder> encoder = psi_encoder(l->kernel, &status);
  if (!encoder) return status;
  [encoder setComputePipelineState:pipeline];
  PSI_TRY(bind_arguments(l, encoder));
  [encoder dispatchThreadgroups:groups threadsPerThreadgroup:threads];
  return psi_encoded(l->kernel, l->work * (f64)(groups.width * threads.width) * (f64)(groups.height * threads.height) * (f64)(groups.depth * threads.depth));
}

i32 psi_launch(PsiLaunch* l, i64 gx, i64 gy, i64 gz, i32 tx, i32 ty, i32 tz) {
  if (l->status != PSI_OK) return l->status;
  if (!psi_device) return psi_no_device(l->kernel);
  if (gx == 0 || gy == 0 || gz == 0) return PSI_OK;
  const i64 most = 2147483647;
  if (gx < 0 || gy < 0 || gz < 0 || gx > most || gy > most || gz > most)
    return psi_fail(PSI_INVALID, "[metal] expected a grid of at most 2147483647 threadgroups a side for kernel %s, got %lld x %lld x %lld.", l->kernel,
                    (long long)gx, (long long)gy, (long long)gz);
  i32 status = PSI_OK;
  @autoreleasepool {
    status = encode(l, MTLSizeMake((NSUInteger)gx, (NSUInteger)gy, (NSUInteger)gz), MTLSizeMake((NSUInteger)tx, (NSUInteger)ty, (NSUInteger)tz));
  }
  return status;
}
