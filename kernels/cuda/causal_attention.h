/* What attention of whole sequences is asked for, and its two sets of kernels. */
#pragma once
#include "train.cuh"

namespace psi {

struct CausalAttention {
  const void *q, *k, *v;
  const float* sinks;
  const i32* first;
  void* y;
  float* lse;
  i32 sequences, length, heads, kv_heads, head_dim, window;
  float scale, softcap;
  /* backward */
  const void* dy;
  void *dq, *dk, *dv;
  float* delta; /* [rows, heads]: dy.y */

  __device__ __forceinline__ i64 wide() const { return (i64)heads * head_dim; }
  __device__ __forceinline__ i64 narrow() const { return (i64)kv_heads * head_dim; }
  /* First position that a row of a sequence sees. */
  __device__ __forceinline__ i32 seen_from(i32 sequence, i32 row) const {
    const i32 from = first ? first[(i64)sequence * length + row] : 0;
    return window > 0 && row - window + 1 > from ? row - window + 1 : from;
  }
  __device__ __forceinline__ float score(float dot) const {
    const float s = dot * scale;
    return softcap > 0 ? softcap * tanh_of(s / softcap) : s;
  }
  /* d score / d dot, given the score */
  __device__ __forceinline__ float slope(float s) const { return softcap > 0 ? scale * (1.0f - s * s / (softcap * softcap)) : scale; }
};

constexpr float LOG2_E = 1.4426950408889634f, LN_2 = 0.6931471805599453f;

/* causal_attention_mma.cu: bf16 tensors, heads of up to 128 elements, on tensor cores. */
i32 causal_forward_half(const CausalAttention& c);
i32 causal_backward_half(const CausalAttention& c); /* delta is there */

}  // namespace psi
