/* Products of many rows (product.h) with weights of MXFP4. */
#include "product_launch.cuh"

namespace psi {

template i32 product<WeightMXFP4>(const char* op, const ProductArguments& arguments);

}  // namespace psi
