/*
 * Gated delta rule (arXiv:2412.06464), the recurrent form, for each value head with S f32 [key_dim, value_dim]:
 *   S = exp(g) S; u = beta (v - S^T k); S += k u^T; y = S^T q     g = decay * softplus(a + dt_bias), beta = sigmoid(b)
 * with k and q of length 1, q also by 1/sqrt(key_dim); layouts and states in ffi/psionic.h. All sums f32.
 *
 * A block of 128 threads keeps 32 columns of a head of a sequence in registers, from the state before its first token to
 * that after its last: a thread has 2 columns of 16 rows (32 where key_dim is above 128), 8 neighbours the rows of a
 * column. The tokens stream through shared memory in tiles, copied while the tile before is computed. The state before a
 * token gives P = S^T k and O = S^T q of the raw k and q at once; from them u and y = exp(g) O + (k.q) u follow, the
 * lengths of k and q being factors of P, O, u. Sums over rows: a thread's in order, then a tree over its 8 neighbours,
 * the same for any number of tokens; decode and prefill are this one kernel.
 */
#include "delta.cuh"

namespace psi {

constexpr int DELTA_THREADS = 128, DELTA_COLUMNS = 32;

struct DeltaArguments {
  float *y, *state;
  const float *q, *k, *v, *a, *b, *decay, *dt_bias; /* q to b: of token 0, head 0 */
  Recurrent r;
  i64 stride, a_stride, b_stride;
  i32 key_heads, value_heads, key_dim, value_dim, blocks; /* blocks of columns in a head */
  bool tiled;
};

template <int ROWS>
struct alignas(16) DeltaToken {
  float k[8 * ROWS], q[8 * ROWS], v[DELTA_COLUMNS];
};

/* Four elements of a row to shared memory, of which the first `count` exist; zeros for the others. */
template <bool WHOLE>
__device__ __forceinline__ void copy_four(float* to, const float* from, i32 count, const float* any) {
  if constexpr (WHOLE) copy_async16(to, count > 0 ? from : any, count > 0);
  else
    for (i32 e = 0; e < 4; e++) to[e] = e < count ? from[e] : 0.0f;
}

/* Warp w has the tokens w, w + 4, ... of a tile: it copies them, and makes their factors. */
constexpr int DELTA_WARPS = DELTA_THREADS / 32;

template <int ROWS, bool WHOLE>
__device__ __forceinline__ void load_tokens(const DeltaArguments& p, DeltaToken<ROWS>* to, i64 first, i32 count, i32 key_head, i32 head, i32 column) {
  const i32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (i32 t = warp; t < count; t += DELTA_WARPS) {
    const i64 row = (first + t) * p.stride;
    const i64 key_at = row + (i64)key_head * p.key_dim;
#pragma unroll
    for (int i = 0; i < ROWS / 16; i++) {
      const i32 d = (lane + 32 * i) * 4;
      copy_four<WHOLE>(to[t].k + d, p.k + key_at + d, p.key_dim - d, p.k);
      copy_four<WHOLE>(to[t].q + d, p.q + key_at + d, p.key_dim - d, p.k);
    }
    if (lane < DELTA_COLUMNS / 4)
      copy_four<WHOLE>(to[t].v + lane * 4, p.v + row + (i64)head * p.value_dim + column + lane * 4, p.value_dim - column - lane * 4, p.k);
  }
  if constexpr (WHOLE) copy_async_commit();
}

/* Factors of N tokens of this warp; lane i has the raw gates of the i-th. */
template <int ROWS, int N>
__device__ __forceinline__ void make_factors(const DeltaToken<ROWS>* tokens, DeltaFactors* factors, i32 count, float a, float b, float decay, float dt_bias, i32 key_dim) {
  const i32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float kk[N] = {}, qq[N] = {}, kq[N] = {};
#pragma unroll
  for (int i = 0; i < N; i++) {
    const DeltaToken<ROWS>& token = tokens[min(warp + i * DELTA_WARPS, count - 1)];
#pragma unroll
    for (int r = 0; r < ROWS / 4; r++) {
      const float k = token.k[lane + 32 * r], q = token.q[lane + 32 * r];
      kk[i] = __fmaf_rn(k, k, kk[i]), qq[i] = __fmaf_rn(q, q, qq[i]), kq[i] = __fmaf_rn(k, q, kq[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < N; i++) kk[i] = warp_sum(kk[i]), qq[i] = warp_sum(qq[i]), kq[i] = warp_sum(kq[i]);
#pragma unroll
  for (int i = 1; i < N; i++)
    if (lane == i) kk[0] = kk[i], qq[0] = qq[i], kq[0] = kq[i];
  const DeltaFactors f = delta_factors(a, b, decay, dt_bias, kk[0], qq[0], kq[0], key_dim);
  if (lane < N && warp + lane * DELTA_WARPS < count) factors[warp + lane * DELTA_WARPS] = f;
}

/* What a thread needs of a token, in registers. */
template <int ROWS>
struct DeltaVectors {
  float k[ROWS], q[ROWS], v;
  DeltaFactors factors;
};

template <int ROWS>
__device__ __forceinline__ DeltaVectors<ROWS> read_token(const DeltaToken<ROWS>& token, const DeltaFactors& factors) {
  DeltaVectors<ROWS> d;
#pragma unroll
  for (int i = 0; i < ROWS; i += 4) {
    const i32 row = i * 8 + threadIdx.x % 8 * 4;
    const float4 k = *(const float4*)(token.k + row), q = *(const float4*)(token.q + row);
    d.k[i] = k.x, d.k[i + 1] = k.y, d.k[i + 2] = k.z, d.k[i + 3] = k.w;
    d.q[i] = q.x, d.q[i + 1] = q.y, d.q[i + 2] = q.z, d.q[i + 3] = q.w;
  }
  d.v = token.v[threadIdx.x / 8 * 2 + own_column()];
  d.factors = factors;
  return d;
}

/* One token: s = this thread's part of S, y of the block's columns. */
template <int ROWS, class F>
__device__ __forceinline__ void delta_step(float (*s)[2], const DeltaVectors<ROWS>& d, float* y, int columns, F&& meanwhile) {
  const float sum = delta_sums<ROWS>(s, HeldRows{d.k}, HeldRows{d.q}, meanwhile);
  const float2 change = delta_change(sum, d.v, d.factors, [&](i32 column, float value) {
    if (column < columns) y[column] = value;
  });
  delta_move<ROWS>(s, HeldRows{d.k}, change, d.factors.decay);
}

/* Tokens of a tile: two tiles stay under 40 KiB. */
template <int ROWS>
constexpr int DELTA_TILE = 256 / ROWS;

/* The tokens of a sequence, from, to; none: from = p.r.tokens. All threads come here. */
__device__ __forceinline__ int2 find_run(const Recurrent& r, i32 sequence, int2* shared) {
  i32 first = r.tokens, last = -1;
#pragma unroll 8
  for (i32 t = threadIdx.x; t < r.tokens; t += DELTA_THREADS)
    if (r.sequence[t] == sequence) first = min(first, t), last = t;
  for (int mask = 16; mask > 0; mask >>= 1) {
    first = min(first, __shfl_xor_sync(~0u, first, mask));
    last = max(last, __shfl_xor_sync(~0u, last, mask));
  }
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = {first, last};
  __syncthreads();
#pragma unroll
  for (int w = 0; w < DELTA_WARPS; w++) first = min(first, shared[w].x), last = max(last, shared[w].y);
  return {first, last + 1};
}

/* WHOLE: everything in pieces of 16 bytes. STREAM, for many tokens: a token is read beside the sums of the one before, for
   more registers; without, more blocks fit and read their states at the same time. */
template <int ROWS, bool WHOLE, bool STREAM>
__global__ void __launch_bounds__(DELTA_THREADS, ROWS == 32 ? 2 : STREAM ? 3 : 5) gated_delta_rule_kernel(const __grid_constant__ DeltaArguments p) {
  constexpr int TILE = DELTA_TILE<ROWS>;
  PSI_DYNAMIC_SHARED(shared);
  __shared__ int2 runs[DELTA_WARPS];
  __shared__ DeltaFactors factors[2][TILE];
  const i32 head = blockIdx.x / p.blocks, block_column = blockIdx.x % p.blocks * DELTA_COLUMNS, sequence = blockIdx.y;
  const i32 key_head = p.tiled ? head % p.key_heads : head / (p.value_heads / p.key_heads);
  const i32 column = block_column + threadIdx.x / 8 * 2;
  const float decay = p.decay[head], dt_bias = p.dt_bias[head];
  let_next_start();
  wait_for_inputs();
  const i32 slot = slot_of(p.r, sequence);
  float* state = p.state + ((i64)max(slot, 0) * p.value_heads + head) * p.key_dim * p.value_dim;
  float s[ROWS][2] = {};
  if (slot >= 0) move_state<ROWS, WHOLE, false>(s, state, p.key_dim, p.value_dim, column);
  const int2 run = find_run(p.r, sequence, runs);
  if (run.x >= run.y) return;
  DeltaToken<ROWS>* tokens = (DeltaToken<ROWS>*)shared;
  /* the raw gates of the warp's tokens of a tile, lane i the i-th's, read while the tile before is computed */
  float a = 0, b = 0;
  auto start = [&](i32 first, i32 buffer) {
    const i32 count = min(TILE, run.y - first), own = threadIdx.x / 32 + threadIdx.x % 32 * DELTA_WARPS;
    load_tokens<ROWS, WHOLE>(p, tokens + buffer * TILE, first, count, key_head, head, block_column);
    if (own < count) {
      a = p.a[(first + own) * p.a_stride + head];
      b = p.b[(first + own) * p.b_stride + head];
    }
  };
  start(run.x, 0);
  if (p.r.position[run.x] == 0) {
#pragma unroll
    for (int i = 0; i < ROWS; i++) s[i][0] = s[i][1] = 0.0f;
  }
  i32 buffer = 0;
  for (i32 first = run.x; first < run.y; first += TILE, buffer ^= 1) {
    const i32 count = min(TILE, run.y - first);
    const DeltaToken<ROWS>* tile = tokens + buffer * TILE;
    copy_async_wait<0>();
    __syncwarp();
    if (count <= DELTA_WARPS) make_factors<ROWS, 1>(tile, factors[buffer], count, a, b, decay, dt_bias, p.key_dim);
    else make_factors<ROWS, TILE / DELTA_WARPS>(tile, factors[buffer], count, a, b, decay, dt_bias, p.key_dim);
    /* shows the tile to all, who have also left the other buffer by now */
    __syncthreads();
    if (first + TILE < run.y) start(first + TILE, buffer ^ 1);
    float* y = p.y + ((i64)first * p.value_heads + head) * p.value_dim + block_column;
    const i64 width = (i64)p.value_heads * p.value_dim;
    if constexpr (STREAM) {
      DeltaVectors<ROWS> token = read_token(tile[0], factors[buffer][0]);
#pragma unroll 2
      for (i32 t = 0; t < count; t++) {
        const i32 next = min(t + 1, count - 1);
        DeltaVectors<ROWS> after;
        delta_step<ROWS>(s, token, y + t * width, p.value_dim - block_column, [&] { after = read_token(tile[next], factors[buffer][next]); });
        token = after;
      }
    } else {
#pragma unroll 1
      for (i32 t = 0; t < count; t++)
        delta_step<ROWS>(s, read_token(tile[t], factors[buffer][t]), y + t * width, p.value_dim - block_column, [] {});
    }
  }
  if (slot >= 0) move_state<ROWS, WHOLE, true>(s, state, p.key_dim, p.value_dim, column);
}

template <int ROWS, bool WHOLE>
static i32 launch_delta(const char* op, const DeltaArguments& p) {
  constexpr int TILE = DELTA_TILE<ROWS>;
  const size_t bytes = sizeof(DeltaToken<ROWS>) * (p.r.tokens > TILE ? 2 * TILE : max(p.r.tokens, 1));
  const dim3 grid((u32)(p.value_heads * p.blocks), (u32)(p.r.tokens > 0 ? p.r.sequences : 0));
  const auto kernel = p.r.tokens > p.r.sequences ? gated_delta_rule_kernel<ROWS, WHOLE, true> : gated_delta_rule_kernel<ROWS, WHOLE, false>;
  return launch(op, kernel, grid, dim3(DELTA_THREADS), bytes, p);
}

static bool inside(i64 offset, i64 width, i64 row) { return offset >= 0 && offset + width <= row; }

}  // namespace psi

PSI_API i32 psi_gated_delta_rule(void* y, void* state, const void* qkv, const void* a, const void* b, const void* decay, const void* dt_bias, const void* token_sequence, const void* token_position, const void* sequence_slot, i32 tokens, i32 stride, i32 q_offset, i32 k_offset, i32 v_offset, i32 a_stride, i32 a_offset, i32 b_stride, i32 b_offset, i32 key_heads, i32 value_heads, i32 key_dim, i32 value_dim, i32 sequences, i32 slots, i32 tiled) {
  using namespace psi;
  const char* op = "psi_gated_delta_rule";
  if (!y || !state || !qkv || !a || !b || !decay || !dt_bias) return fail(PSI_INVALID, "[%s] expected non-null pointers.", op);
  if (key_heads < 1 || value_heads < 1 || value_heads % key_heads || key_dim < 1 || key_dim > 256 || value_dim < 1)
    return fail(PSI_INVALID, "[%s] expected value heads in multiples of the key heads, keys of 1 to 256 and values, got %d heads of %d and %d of %d.", op, key_heads, key_dim, value_heads, value_dim);
  const i64 keys = (i64)key_heads * key_dim;
  if (!inside(q_offset, keys, stride) || !inside(k_offset, keys, stride) || !inside(v_offset, (i64)value_heads * value_dim, stride))
    return fail(PSI_INVALID, "[%s] expected q, k and v inside rows of %d, got them at %d, %d and %d.", op, stride, q_offset, k_offset, v_offset);
  if (!inside(a_offset, value_heads, a_stride) || !inside(b_offset, value_heads, b_stride))
    return fail(PSI_INVALID, "[%s] expected %d gates inside rows of %d and %d, got them at %d and %d.", op, value_heads, a_stride, b_stride, a_offset, b_offset);
  if (tiled < 0 || tiled > 1) return fail(PSI_INVALID, "[%s] expected tiled 0 or 1, got %d.", op, tiled);
  const Recurrent r = {(const i32*)token_sequence, (const i32*)token_position, (const i32*)sequence_slot, tokens, sequences, slots};
  PSI_TRY(check_recurrent(op, r));
  if (sequences > 65535) return fail(PSI_UNSUPPORTED, "[%s] expected at most 65535 sequences, got %d.", op, sequences);
  const float* rows = (const float*)qkv;
  const DeltaArguments p = {(float*)y, (float*)state, rows + q_offset, rows + k_offset, rows + v_offset, (const float*)a + a_offset,
                            (const float*)b + b_offset, (const float*)decay, (const float*)dt_bias, r, stride, a_stride, b_stride, key_heads,
                            value_heads, key_dim, value_dim, PSI_DIVIDE_UP(value_dim, DELTA_COLUMNS), tiled != 0};
  const bool whole = ((stride | q_offset | k_offset | v_offset | key_dim | value_dim) % 4 | ((uintptr_t)qkv | (uintptr_t)state) % 16) == 0;
  if (key_dim <= 128) return whole ? launch_delta<16, true>(op, p) : launch_delta<16, false>(op, p);
  return whole ? launch_delta<32, true>(op, p) : launch_delta<32, false>(op, p);
}
