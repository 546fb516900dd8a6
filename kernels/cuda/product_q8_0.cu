/* Products of many rows (product.h) with weights of Q8_0. */
#include "product_launch.cuh"

namespace psi {

template i32 product<WeightQ8_0>(const char* op, const ProductArguments& arguments);

}  // namespace psi
