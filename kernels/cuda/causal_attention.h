/* What attention of whole sequences is asked for, and its two sets of kernels. */
#pragma once
#include "train.cuh"

namespace psi {

constexpr int ATTENTION_TILE = 64; /* rows, or keys, that pass through a tensor core at a time */

struct CausalAttention {
  const void *q, *k, *v;
  const float* sinks;
  const i32* first;
  void* y;
  float* lse;
  void* rest; /* of y's type, or null: not wanted */
  i32 sequences, length, heads, kv_heads, head_dim, window;
  float scale, softcap;
  /* backward */
  const void* dy;
  void *dq, *dk, *dv;
  bool wide_gradients; /* dq and dk of bf16 tensors are f32 */
  float2* facts; /* [sequences, heads, facts_rows()]: lse / ln 2 and dy.(y + rest) of a row; zeros past a sequence's rows */

  /* Rows of a sequence in whole tiles. */
  __host__ __device__ __forceinline__ i32 facts_rows() const { return (length + ATTENTION_TILE - 1) / ATTENTION_TILE * ATTENTION_TILE; }
  __device__ __forceinline__ const float2* facts_of(i32 sequence, i32 head) const { return facts + ((i64)sequence * heads + head) * facts_rows(); }
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
i32 causal_backward_half(const CausalAttention& c); /* facts are there */

/* causal_attention_wgmma.cu: those of 64 elements without soft-cap on Hopper. */
bool causal_fits_wgmma(const CausalAttention& c);
i32 causal_forward_wgmma(const CausalAttention& c);
i32 causal_backward_wgmma(const CausalAttention& c);

}  // namespace psi
