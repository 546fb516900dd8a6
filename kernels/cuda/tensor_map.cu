/* Tensor maps, which the driver encodes; found at the first use, since the library is not linked to the driver. */
#include "tensor_copy.h"

namespace psi {

#if defined(PSI_STANDIN)
i32 make_tensor_map(const char*, TensorMap& map, const void* p, i64 inner, i64 outer, i64 batch, i64 pitch, i64 batch_pitch, i32 lines) {
  map = {(const u16*)p, inner, outer, batch, pitch, batch_pitch, lines};
  return PSI_OK;
}
#else
typedef CUresult (*EncodeTiled)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*, const cuuint32_t*, const cuuint32_t*,
                                CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

i32 make_tensor_map(const char* op, TensorMap& map, const void* p, i64 inner, i64 outer, i64 batch, i64 pitch, i64 batch_pitch, i32 lines) {
  static EncodeTiled encode = nullptr;
  if (!encode) {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result;
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
    if (error != cudaSuccess || result != cudaDriverEntryPointSuccess)
      return fail(PSI_UNSUPPORTED, "[%s] expected a driver with cuTensorMapEncodeTiled, got one without. Install a driver for CUDA 12 or newer.", op);
    encode = (EncodeTiled)found;
  }
  const cuuint64_t sizes[3] = {(cuuint64_t)inner, (cuuint64_t)outer, (cuuint64_t)batch};
  const cuuint64_t strides[2] = {(cuuint64_t)pitch * 2, (cuuint64_t)(batch > 1 ? batch_pitch : pitch) * 2};
  const cuuint32_t box[3] = {64, (cuuint32_t)lines, 1}, steps[3] = {1, 1, 1};
  const CUresult status = encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<void*>(p), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                 CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status == CUDA_SUCCESS) return PSI_OK;
  return fail(PSI_INVALID, "[%s] expected a matrix that a tensor map describes, got %lld x %lld x %lld, pitch %lld (driver error %d).", op, (long long)batch,
              (long long)outer, (long long)inner, (long long)pitch, (int)status);
}
#endif

}  // namespace psi
