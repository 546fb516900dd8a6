/* Starts the kernels of one operand type; each attention_<operand>.cu makes those of its own. */
#pragma once
#include <type_traits>

#include "attention_decode.cuh"
#include "attention_prefill.cuh"

namespace psi {

template <int OPERAND, int HEAD>
i32 start_attention(const Attention& a, AttentionWay way) {
  using Decode = DecodeForm<HEAD>;
  using Run = RunForm<HEAD>;
  const i32 parts = a.kv_heads * decode_pieces(a.group);
  if (way == WAY_SPLIT) {
    /* as many blocks as fit at once, unless that is more than there can be tiles */
    const i32 bytes = Decode::split_bytes(decode_held(a.group));
    const i64 fit = max((i64)1, (device.largest_shared + 1024) / (bytes + 1024)) * device.multiprocessors;
    const i64 most = PSI_DIVIDE_UP((i64)a.tokens * parts * a.tiles, (i64)Decode::TEAMS);
    return launch("psi_attention", attention_split<OPERAND, HEAD>, dim3((u32)min(fit, most)), dim3(Decode::THREADS), (size_t)bytes, a);
  }
  if (way == WAY_DIRECT) {
    const i32 each = a.tokens > 128 ? 16 : 1;
    return launch("psi_attention", attention_direct<OPERAND, HEAD>, dim3((u32)parts, (u32)PSI_DIVIDE_UP(a.tokens, each)),
                  dim3(Decode::THREADS), Decode::DIRECT_BYTES, a, each);
  }
  const i32 pieces = PSI_DIVIDE_UP(a.group, Run::ROWS);
  return launch("psi_attention", attention_runs<OPERAND, HEAD>, dim3((u32)PSI_DIVIDE_UP(a.tokens, a.block), (u32)(a.kv_heads * pieces)),
                dim3(Run::THREADS), Run::SHARED_BYTES, a);
}

template <int OPERAND>
i32 attention_with(const Attention& a, AttentionWay way) {
  if (a.head_dim <= 64) return start_attention<OPERAND, 64>(a, way);
  if (a.head_dim <= 96) return start_attention<OPERAND, 96>(a, way);
  if (a.head_dim <= 128) return start_attention<OPERAND, 128>(a, way);
  if (a.head_dim <= 192) return start_attention<OPERAND, 192>(a, way);
  if (a.head_dim <= 256) return start_attention<OPERAND, 256>(a, way);
  return start_attention<OPERAND, 512>(a, way);
}

}  // namespace psi
