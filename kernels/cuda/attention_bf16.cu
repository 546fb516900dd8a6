/* Attention kernels over a cache of bf16 (attention.h). */
#include "attention_launch.cuh"

namespace psi {
template i32 attention_with<OPERAND_BF16>(const Attention& a, AttentionWay way);
}  // namespace psi
