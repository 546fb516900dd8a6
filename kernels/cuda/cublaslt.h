/* Products of training by NVIDIA's cuBLASLt, where it is installed and was chosen for a shape (cublaslt.cu). */
#pragma once
#include "gemm.h"

namespace psi {

/* Whether this product's shape was given to cuBLASLt by psi_cublaslt_use. */
bool cublaslt_has(const Gemm& g);
/* The product by the algorithm that its shape was given with. */
i32 cublaslt_gemm(const char* op, const Gemm& g, void* scratch, f64 scratch_bytes);
/* Forgets the shapes and what cuBLASLt keeps for the open device; the library stays loaded. */
void close_cublaslt();

}  // namespace psi
