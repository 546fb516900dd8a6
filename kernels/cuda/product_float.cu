/* Products of many rows (product.h) with weights of F16, BF16. */
#include "product_launch.cuh"

namespace psi {

template i32 product<WeightF16>(const char* op, const ProductArguments& arguments);
template i32 product<WeightBF16>(const char* op, const ProductArguments& arguments);

}  // namespace psi
