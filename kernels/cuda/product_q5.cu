/* Products of many rows (product.h) with weights of Q5_0, Q5_1. */
#include "product_launch.cuh"

namespace psi {

template i32 product<WeightQ5_0>(const char* op, const ProductArguments& arguments);
template i32 product<WeightQ5_1>(const char* op, const ProductArguments& arguments);

}  // namespace psi
