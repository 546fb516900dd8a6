/* Attention kernels over a cache of f16 (attention.h). */
#include "attention_launch.cuh"

namespace psi {
template i32 attention_with<OPERAND_F16>(const Attention& a, AttentionWay way);
}  // namespace psi
