/* Attention kernels over caches whose numbers become f16 as they are staged (attention.h). */
#include "attention_launch.cuh"

namespace psi {
template i32 attention_with<OPERAND_CONVERTED>(const Attention& a, AttentionWay way);
}  // namespace psi
