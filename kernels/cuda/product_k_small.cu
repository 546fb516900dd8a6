/* Products of many rows (product.h) with weights of Q2_K, Q3_K, Q4_K. */
#include "product_launch.cuh"

namespace psi {

template i32 product<WeightQ2_K>(const char* op, const ProductArguments& arguments);
template i32 product<WeightQ3_K>(const char* op, const ProductArguments& arguments);
template i32 product<WeightQ4_K>(const char* op, const ProductArguments& arguments);

}  // namespace psi
