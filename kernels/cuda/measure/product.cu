/*
 * Times the products of many rows (product.h) on a device, tile form by tile form, over gpt-oss-20b's shapes, and says
 * whether all forms, wgmma and mma.sync, give the same bits.
 * nvcc -O3 -std=c++17 -gencode arch=compute_90a,code=sm_90a --expt-relaxed-constexpr kernels/cuda/measure/product.cu \
 *   kernels/common/status.cpp -o measure_product && ./measure_product
 * Prints per shape and form: microseconds, TFLOP/s, GB/s of weights, values that differ from the first form's.
 */
#include <stdio.h>

#include <vector>

#include "../product_launch.cuh"

namespace psi {

cudaStream_t stream;
DeviceFacts device;
i32 cuda_failed(const char* where, cudaError_t error) { return fail(PSI_INVALID, "[%s] %s", where, cudaGetErrorString(error)); }
i32 no_device(const char* where) { return fail(PSI_INVALID, "[%s] no device", where); }
i32 allow_shared(const char* op, const void* kernel, size_t bytes) {
  cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
  return error == cudaSuccess ? PSI_OK : cuda_failed(op, error);
}

namespace {

u32 state = 2463534242u;
u32 next() {
  state ^= state << 13;
  state ^= state >> 17;
  return state ^= state << 5;
}

template <class T>
T* on_device(const std::vector<T>& host) {
  T* p = nullptr;
  cudaMalloc((void**)&p, host.size() * sizeof(T) + 256);
  cudaMemcpy(p, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice);
  return p;
}

/* Bytes that are small positive numbers as f16, as bf16, as codes and as exponents. */
u8* random_weights(size_t bytes) {
  std::vector<u8> block(1 << 20);
  for (u8& b : block) b = (u8)(0x20 + next() % 0x1c);
  u8* p = nullptr;
  cudaMalloc((void**)&p, bytes);
  for (size_t at = 0; at < bytes; at += block.size())
    cudaMemcpy(p + at, block.data(), bytes - at < block.size() ? bytes - at : block.size(), cudaMemcpyHostToDevice);
  return p;
}

struct Form {
  const char* name;
  i32 (*launch)(const char*, const ProductArguments&);
};

template <class W>
void measure(const char* name, i32 tokens, i32 outputs, i32 columns, i32 experts, bool gated) {
  const i32 used = experts ? 4 : 1, rows = tokens * used;
  const bool per_slot = experts && !gated;
  ProductArguments p = {};
  p.rows = rows, p.outputs = outputs, p.columns = columns;
  p.gate = {gated ? 2 : -1, 1.702f, 7.0f};
  std::vector<u16> x((size_t)(per_slot ? rows : tokens) * columns);
  for (u16& v : x) v = (u16)(0x3c00 + next() % 0x380 + (next() & 0x8000));
  std::vector<i32> offsets(experts + 1), sorted;
  std::vector<std::vector<i32>> slots(experts ? experts : 1);
  for (i32 s = 0; experts && s < rows; s++) slots[next() % experts].push_back(s);
  for (i32 e = 0; e < experts; e++) {
    offsets[e] = (i32)sorted.size();
    sorted.insert(sorted.end(), slots[e].begin(), slots[e].end());
  }
  if (experts) offsets[experts] = rows;
  const i32 units = PSI_DIVIDE_UP(columns, PRODUCT_UNIT);
  const size_t matrix = (size_t)PSI_DIVIDE_UP(outputs, 16) * W::tile_bytes(units), bytes = matrix * (experts ? experts : 1);
  u16* device_x = on_device(x);
  u8* w = random_weights(bytes);
  i32 *device_offsets = on_device(offsets), *device_sorted = on_device(sorted);
  p.x = device_x, p.w = w;
  if (experts) p.groups = {device_offsets, device_sorted, experts, rows, per_slot ? 1 : used};
  const size_t count = (size_t)rows * (gated ? outputs / 2 : outputs);
  cudaMalloc((void**)&p.y, count * 4);

  std::vector<Form> forms = {{"mma 128x64", launch_product_mma<W, 64>}, {"mma 128x128", launch_product_mma<W, 128>}, {"mma 128x32", launch_product_mma<W, 32>}};
  if (device.compute == 90) {
    forms.push_back({"wgmma 256x128", launch_product_wgmma<W, 4, 128>});
    forms.push_back({"wgmma 256x64", launch_product_wgmma<W, 4, 64>});
    forms.push_back({"wgmma 128x64", launch_product_wgmma<W, 2, 64>});
  }
  forms.push_back({"chosen", product<W>});
  std::vector<u32> first, got(count);
  cudaEvent_t begin, end;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  for (const Form& form : forms) {
    cudaMemsetAsync(p.y, 0xff, count * 4, stream);
    i32 status = form.launch("measure", p);
    cudaError_t error = cudaStreamSynchronize(stream);
    if (status || error != cudaSuccess) {
      printf("%-22s %-14s failed: %s %s\n", name, form.name, status ? last_error() : "", cudaGetErrorString(error));
      exit(1);
    }
    cudaMemcpy(got.data(), p.y, count * 4, cudaMemcpyDeviceToHost);
    if (first.empty()) first = got;
    size_t different = 0;
    for (size_t i = 0; i < count; i++) different += got[i] != first[i];
    constexpr int REPEATS = 10;
    cudaEventRecord(begin, stream);
    for (int i = 0; i < REPEATS; i++) form.launch("measure", p);
    cudaEventRecord(end, stream);
    cudaStreamSynchronize(stream);
    float milliseconds = 0;
    cudaEventElapsedTime(&milliseconds, begin, end);
    double seconds = milliseconds * 1e-3 / REPEATS;
    printf("%-22s T %5d  %-14s %9.1f us %7.1f TFLOP/s %7.0f GB/s  different %zu of %zu\n", name, tokens, form.name, seconds * 1e6,
           2.0 * rows * outputs * columns / seconds * 1e-12, bytes / seconds * 1e-9, different, count);
  }
  for (void* m : {(void*)device_x, (void*)w, (void*)device_offsets, (void*)device_sorted, (void*)p.y}) cudaFree(m);
}

}  // namespace
}  // namespace psi

int main() {
  using namespace psi;
  cudaDeviceProp properties;
  if (cudaGetDeviceProperties(&properties, 0) != cudaSuccess) {
    puts("no device");
    return 1;
  }
  device = {properties.multiProcessorCount, 10 * properties.major + properties.minor, (i64)properties.sharedMemPerBlockOptin, (i64)properties.l2CacheSize};
  cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  printf("%s, %d multiprocessors\n", properties.name, device.multiprocessors);
  for (i32 tokens : {128, 512, 2048, 8192}) {
    measure<WeightQ8_0>("qkv q8_0", tokens, 5120, 2880, 0, false);
    measure<WeightQ8_0>("output q8_0", tokens, 2880, 4096, 0, false);
    measure<WeightMXFP4>("gate-up mxfp4 gated", tokens, 5760, 2880, 32, true);
    measure<WeightMXFP4>("down mxfp4", tokens, 2880, 2880, 32, false);
  }
  return 0;
}
