/* Products of many rows (product.h) with weights of Q5_K, Q6_K, IQ4_XS. */
#include "product_launch.cuh"

namespace psi {

template i32 product<WeightQ5_K>(const char* op, const ProductArguments& arguments);
template i32 product<WeightQ6_K>(const char* op, const ProductArguments& arguments);
template i32 product<WeightIQ4_XS>(const char* op, const ProductArguments& arguments);

}  // namespace psi
