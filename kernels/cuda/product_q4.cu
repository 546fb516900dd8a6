/* Products of many rows (product.h) with weights of Q4_0, Q4_1, IQ4_NL. */
#include "product_launch.cuh"

namespace psi {

template i32 product<WeightQ4_0>(const char* op, const ProductArguments& arguments);
template i32 product<WeightQ4_1>(const char* op, const ProductArguments& arguments);
template i32 product<WeightIQ4_NL>(const char* op, const ProductArguments& arguments);

}  // namespace psi
