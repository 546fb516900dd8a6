#pragma once
/* A threadgroup has CAUSAL_OWN rows (or keys) and walks blocks of CAUSAL_BLOCK keys (or rows), CAUSAL_BLOCK of the head at a time. */
enum { CAUSAL_OWN = 8, CAUSAL_BLOCK = 32, CAUSAL_STRIDE = 36, CAUSAL_THREADS = 128, CAUSAL_WIDEST = 256, CAUSAL_CHUNKS = 8 };
struct CausalParams {
  unsigned int sequences, length, heads, kv_heads, head_dim, window;
  float scale, softcap;
};
typedef struct CausalParams CausalParams;
