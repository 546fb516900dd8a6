/*
 * Gated delta rule (arXiv:2412.06464), the recurrent form, for each value head with S f32 [key_dim, value_dim]:
 *   S = exp(g) S; u = beta (v - S^T k); S += k u^T; y = S^T q     g = decay * softplus(a + dt_bias), beta = sigmoid(b)
 * with k and q of length 1, q also by 1/sqrt(key_dim); layouts and states in ffi/psionic.h. All sums f32.
 *
 * A block of 128 threads keeps 32 columns of a head of a sequence in registers, from the state before its first token to
 * that after its last: a thread has 4 columns of 8 rows (16 where key_dim is above 128), 16 neighbours the rows of a
 * column. The tokens stream through shared memory in tiles, copied while the tile before is computed. The state before a
 * token gives P = S^T k and O = S^T q of the raw k and q at once; from them u and y = exp(g) O + (k.q) u follow, the
 * lengths of k and q being factors of P, O, u. Sums over rows: a thread's in order, then a tree over its 16 neighbours,
 * the same for any number of tokens; decode and prefill are this one kernel.
 */
#include "recurrent.cuh"

namespace psi {

constexpr int DELTA_THREADS = 128, DELTA_COLUMNS = 32;

struct DeltaArguments {
  float *y, *state;
  const float *q, *k, *v, *a, *b, *decay, *dt_bias; /* q to b: of token 0, head 0 */
  Recurrent r;
  i64 stride, a_stride, b_stride;
  i32 key_heads, value_heads, key_dim, value_dim, blocks; /* blocks of columns in a head */
  i32 tile; /* tokens, of each of `buffers` */
  i32 buffers;
  bool tiled;
};

/* Factors of a token; the lengths of k and q are in them. */
struct alignas(16) DeltaFactors {
  float decay, predict, write, read, direct;
};

template <int ROWS>
struct alignas(16) DeltaToken {
  float k[16 * ROWS], q[16 * ROWS], v[DELTA_COLUMNS];
};

/* Copies token t's part for this block to shared memory; what is outside the heads becomes 0. */
template <int ROWS, bool WHOLE>
__device__ __forceinline__ void load_tokens(const DeltaArguments& p, DeltaToken<ROWS>* to, i64 first, i32 count, i32 key_head, i32 head, i32 column) {
  constexpr int KEYS = 16 * ROWS, STEP = WHOLE ? 4 : 1, PIECES = (2 * KEYS + DELTA_COLUMNS) / STEP;
  for (i32 i = threadIdx.x; i < count * PIECES; i += DELTA_THREADS) {
    const i32 token = i / PIECES, at = i % PIECES * STEP;
    const i64 row = (first + token) * p.stride;
    const float* from;
    bool valid;
    if (at < 2 * KEYS) {
      const i32 d = at % KEYS;
      valid = d < p.key_dim;
      from = (at < KEYS ? p.k : p.q) + row + (i64)key_head * p.key_dim + d;
    } else {
      const i32 d = column + at - 2 * KEYS;
      valid = d < p.value_dim;
      from = p.v + row + (i64)head * p.value_dim + d;
    }
    float* place = (float*)(to + token) + at;
    if constexpr (WHOLE) copy_async16(place, valid ? from : p.q, valid);
    else *place = valid ? *from : 0.0f;
  }
  if constexpr (WHOLE) copy_async_commit();
}

/* Sums of squares and products of a tile's k and q, a warp per token: k.k, q.q, k.q */
template <int ROWS>
__device__ __forceinline__ void measure_tokens(const DeltaToken<ROWS>* tokens, float (*sums)[4], i32 count) {
  const int lane = threadIdx.x % 32;
  for (i32 t = threadIdx.x / 32; t < count; t += DELTA_THREADS / 32) {
    float kk = 0, qq = 0, kq = 0;
#pragma unroll
    for (int i = 0; i < ROWS / 2; i++) {
      const float k = tokens[t].k[lane + 32 * i], q = tokens[t].q[lane + 32 * i];
      kk = __fmaf_rn(k, k, kk), qq = __fmaf_rn(q, q, qq), kq = __fmaf_rn(k, q, kq);
    }
    kk = warp_sum(kk), qq = warp_sum(qq), kq = warp_sum(kq);
    if (lane == 0) sums[t][0] = kk, sums[t][1] = qq, sums[t][2] = kq;
  }
}

__device__ __forceinline__ DeltaFactors delta_factors(float a, float b, float decay, float dt_bias, const float* sums, i32 key_dim) {
  const float raw = __fadd_rn(a, dt_bias);
  const float softplus = raw > 20.0f ? raw : log1pf(expf(raw));
  const float beta = 1.0f / __fadd_rn(1.0f, expf(-b));
  const float k_scale = 1.0f / sqrtf(__fadd_rn(sums[0], 1e-6f));
  const float q_scale = 1.0f / sqrtf(__fmul_rn(__fadd_rn(sums[1], 1e-6f), (float)key_dim));
  DeltaFactors f;
  f.decay = expf(__fmul_rn(decay, softplus));
  f.predict = __fmul_rn(f.decay, k_scale);
  f.write = __fmul_rn(beta, k_scale);
  f.read = __fmul_rn(f.decay, q_scale);
  f.direct = __fmul_rn(sums[2], q_scale);
  return f;
}

/* One token: s = this thread's part of S; y of the block's columns. */
template <int ROWS>
__device__ __forceinline__ void delta_step(float (*s)[4], const DeltaToken<ROWS>& token, const DeltaFactors& factors, float* y, int columns) {
  const int lane = threadIdx.x % 32, slice = lane % 16, group = threadIdx.x / 16 * 4;
  const bool third = lane & 8, second = lane & 4, first = lane & 2;
  float k[ROWS], q[ROWS];
#pragma unroll
  for (int i = 0; i < ROWS; i += 4) {
    const float4 f = *(const float4*)(token.k + i * 16 + slice * 4), g = *(const float4*)(token.q + i * 16 + slice * 4);
    k[i] = f.x, k[i + 1] = f.y, k[i + 2] = f.z, k[i + 3] = f.w;
    q[i] = g.x, q[i + 1] = g.y, q[i + 2] = g.z, q[i + 3] = g.w;
  }
  float p[4] = {}, o[4] = {};
#pragma unroll
  for (int i = 0; i < ROWS; i++)
#pragma unroll
    for (int c = 0; c < 4; c++) p[c] = __fmaf_rn(s[i][c], k[i], p[c]), o[c] = __fmaf_rn(s[i][c], q[i], o[c]);
  /* eight sums over 16 lanes: each exchange halves what a lane has; lanes without `third` end with p, the others with o */
#pragma unroll
  for (int c = 0; c < 4; c++) p[c] = __fadd_rn(third ? o[c] : p[c], __shfl_xor_sync(~0u, third ? p[c] : o[c], 8));
#pragma unroll
  for (int c = 0; c < 2; c++) p[c] = __fadd_rn(second ? p[c + 2] : p[c], __shfl_xor_sync(~0u, second ? p[c] : p[c + 2], 4));
  float sum = __fadd_rn(first ? p[1] : p[0], __shfl_xor_sync(~0u, first ? p[0] : p[1], 2));
  sum = __fadd_rn(sum, __shfl_xor_sync(~0u, sum, 1));
  const int own = (second ? 2 : 0) + (first ? 1 : 0);
  const float change = __fmul_rn(factors.write, __fmaf_rn(-factors.predict, sum, token.v[group + own]));
  float u[4];
#pragma unroll
  for (int c = 0; c < 4; c++) u[c] = __shfl_sync(~0u, change, (lane & 16) | (c & 2) << 1 | (c & 1) << 1);
  if (third && lane % 2 == 0 && group + own < columns) {
    const float of_own = second ? (first ? u[3] : u[2]) : (first ? u[1] : u[0]);
    y[group + own] = __fmaf_rn(factors.direct, of_own, __fmul_rn(factors.read, sum));
  }
#pragma unroll
  for (int i = 0; i < ROWS; i++)
#pragma unroll
    for (int c = 0; c < 4; c++) s[i][c] = __fmaf_rn(k[i], u[c], __fmul_rn(factors.decay, s[i][c]));
}

/* Reads or writes this thread's part of S. */
template <int ROWS, bool WHOLE, bool WRITE>
__device__ __forceinline__ void move_state(float (*s)[4], float* state, i32 key_dim, i32 value_dim, i32 column) {
#pragma unroll
  for (int i = 0; i < ROWS; i++) {
    const i32 row = i / 4 * 64 + threadIdx.x % 16 * 4 + i % 4;
    if (row >= key_dim) continue;
    float* at = state + (i64)row * value_dim + column;
    if constexpr (WHOLE) {
      if (column >= value_dim) continue;
      if constexpr (WRITE) *(float4*)at = make_float4(s[i][0], s[i][1], s[i][2], s[i][3]);
      else {
        const float4 f = *(const float4*)at;
        s[i][0] = f.x, s[i][1] = f.y, s[i][2] = f.z, s[i][3] = f.w;
      }
    } else {
#pragma unroll
      for (int c = 0; c < 4; c++) {
        if (column + c >= value_dim) continue;
        if constexpr (WRITE) at[c] = s[i][c];
        else s[i][c] = at[c];
      }
    }
  }
}

constexpr int DELTA_TILE = 16;

/* WHOLE: everything in pieces of 16 bytes. */
template <int ROWS, bool WHOLE>
__global__ void __launch_bounds__(DELTA_THREADS) gated_delta_rule_kernel(const __grid_constant__ DeltaArguments p) {
  PSI_DYNAMIC_SHARED(shared);
  __shared__ i32 run[2];
  __shared__ float sums[DELTA_TILE][4];
  __shared__ DeltaFactors factors[DELTA_TILE];
  const i32 head = blockIdx.x / p.blocks, block_column = blockIdx.x % p.blocks * DELTA_COLUMNS, sequence = blockIdx.y;
  const i32 key_head = p.tiled ? head % p.key_heads : head / (p.value_heads / p.key_heads);
  const i32 column = block_column + threadIdx.x / 16 * 4;
  const float decay = p.decay[head], dt_bias = p.dt_bias[head];
  let_next_start();
  wait_for_inputs();
  const i32 slot = slot_of(p.r, sequence);
  float* state = p.state + ((i64)max(slot, 0) * p.value_heads + head) * p.key_dim * p.value_dim;
  float s[ROWS][4] = {};
  if (slot >= 0) move_state<ROWS, WHOLE, false>(s, state, p.key_dim, p.value_dim, column);
  if (threadIdx.x < 2) run[threadIdx.x] = -1;
  __syncthreads();
  for (i32 t = threadIdx.x; t < p.r.tokens; t += DELTA_THREADS) {
    if (p.r.sequence[t] != sequence) continue;
    if (t == 0 || p.r.sequence[t - 1] != sequence) run[0] = t;
    if (t == p.r.tokens - 1 || p.r.sequence[t + 1] != sequence) run[1] = t + 1;
  }
  __syncthreads();
  const i32 begin = run[0], end = run[1];
  if (begin < 0) return;
  if (p.r.position[begin] == 0) {
#pragma unroll
    for (int i = 0; i < ROWS; i++)
#pragma unroll
      for (int c = 0; c < 4; c++) s[i][c] = 0.0f;
  }
  DeltaToken<ROWS>* tokens = (DeltaToken<ROWS>*)shared;
  /* the gates of a tile: one token a thread, read while the tile before is computed */
  float a = 0, b = 0;
  auto start = [&](i32 first, i32 buffer) {
    const i32 count = min(p.tile, end - first);
    if ((i32)threadIdx.x < count) {
      a = p.a[(first + (i32)threadIdx.x) * p.a_stride + head];
      b = p.b[(first + (i32)threadIdx.x) * p.b_stride + head];
    }
    load_tokens<ROWS, WHOLE>(p, tokens + buffer * p.tile, first, count, key_head, head, block_column);
  };
  start(begin, 0);
  i32 buffer = 0;
  for (i32 first = begin; first < end; first += p.tile) {
    const i32 count = min(p.tile, end - first);
    const DeltaToken<ROWS>* tile = tokens + buffer * p.tile;
    copy_async_wait<0>();
    __syncthreads();
    measure_tokens<ROWS>(tile, sums, count);
    __syncthreads();
    if ((i32)threadIdx.x < count) factors[threadIdx.x] = delta_factors(a, b, decay, dt_bias, sums[threadIdx.x], p.key_dim);
    __syncthreads();
    if (first + p.tile < end) {
      buffer ^= 1;
      start(first + p.tile, buffer);
    }
    float* y = p.y + ((i64)first * p.value_heads + head) * p.value_dim + block_column;
#pragma unroll 1
    for (i32 t = 0; t < count; t++, y += (i64)p.value_heads * p.value_dim)
      delta_step<ROWS>(s, tile[t], factors[t], y, p.value_dim - block_column);
  }
  if (slot >= 0) move_state<ROWS, WHOLE, true>(s, state, p.key_dim, p.value_dim, column);
}

template <int ROWS>
static i32 launch_delta(const char* op, DeltaArguments p, bool whole) {
  const i32 most = ROWS == 8 ? DELTA_TILE : DELTA_TILE / 2; /* under 40 KiB of shared memory */
  p.tile = min(most, max(p.r.tokens, 1));
  p.buffers = p.r.tokens > p.tile ? 2 : 1;
  const size_t bytes = sizeof(DeltaToken<ROWS>) * p.tile * p.buffers;
  const dim3 grid((u32)(p.value_heads * p.blocks), (u32)(p.r.tokens > 0 ? p.r.sequences : 0));
  return launch(op, whole ? gated_delta_rule_kernel<ROWS, true> : gated_delta_rule_kernel<ROWS, false>, grid, dim3(DELTA_THREADS), bytes, p);
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
                            value_heads, key_dim, value_dim, PSI_DIVIDE_UP(value_dim, DELTA_COLUMNS), 0, 0, tiled != 0};
  const bool whole = ((stride | q_offset | k_offset | v_offset | key_dim | value_dim) % 4 | ((uintptr_t)qkv | (uintptr_t)state) % 16) == 0;
  return key_dim <= 128 ? launch_delta<8>(op, p, whole) : launch_delta<16>(op, p, whole);
}
