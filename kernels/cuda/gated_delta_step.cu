/*
 * A generation step of a gated delta rule layer by chunks: causal_conv1d, gated_delta_chunks and rms_norm_gated in one, with the bits of
 * the three (delta_chunk.cuh); states and layouts in ffi/psionic.h. A block has a value head of a sequence whole, 4 threads to a column: a
 * thread convolves one channel of q, k or v; a warp then multiplies 16 columns of S by 64 keys with k and q, two warps also the chunk's keys; a
 * thread has a column's w and y. S is only read, but where the token ends its chunk.
 *
 * The convolution's state of q and k is read by the blocks of all value heads of a key head: the one that counts itself last
 * writes it. States are read before the step's inputs are there, unless the same state was moved by the call before.
 */
#include "delta_chunk.cuh"
#include "glu.cuh"

namespace psi {

constexpr i32 STEP_TAPS = 4, STEP_MOST = 64, STEP_WIDTH = 128; /* STEP_MOST: tokens, sequences, key heads */

__device__ u32 step_arrived[STEP_MOST * STEP_MOST]; /* [sequence][key head]; 0 between launches */

struct ChunkStepArguments {
  float *y, *taps_state, *state;
  const float *x, *z, *a, *b, *conv_w, *decay, *dt_bias, *norm_w; /* x to b: of token 0 */
  Recurrent r;
  i64 stride, z_stride, a_stride, b_stride;
  i32 key_heads, value_heads, key_dim, value_dim, state_rows, taps;
  bool tiled, ahead; /* ahead: no kernel that may still run writes the states */
  float eps;
};

/* What a block has of a head. Rows of such lengths that lanes have banks of their own. */
template <int COLUMNS>
struct alignas(16) ChunkStep {
  float s[CHUNK_KEYS][COLUMNS + 4], k[CHUNK][KEY_ROW], q[KEY_ROW], w[CHUNK][COLUMNS + 8], v[COLUMNS];
  float products[2][2][COLUMNS]; /* [half][of k, of q] */
  float gram[2][2][CHUNK];       /* [half][of k, of q][m] */
  float sums[CHUNK];
  ChunkFactors factors;
};

/* Begins to read S, where there is one, and what the chunk's first `count` tokens left; zeros where keys do not reach. */
template <int COLUMNS>
__device__ __forceinline__ void read_chunk(ChunkStep<COLUMNS>& own, const ChunkState& state, bool any, i32 count, i32 column, i32 key_dim, i32 value_dim) {
  constexpr i32 THREADS = 4 * COLUMNS, PIECES = COLUMNS / 4;
  const i32 thread = threadIdx.x, key_pieces = key_dim / 4;
  if (any)
    for (i32 i = thread; i < key_dim * PIECES; i += THREADS) copy_async16(own.s[i / PIECES] + i % PIECES * 4, state.s + (i64)(i / PIECES) * value_dim + column + i % PIECES * 4);
  for (i32 i = thread; i < count * key_pieces; i += THREADS) copy_async16(own.k[i / key_pieces] + i % key_pieces * 4, state.k + i * 4);
  for (i32 i = thread; i < count * PIECES; i += THREADS) copy_async16(own.w[i / PIECES] + i % PIECES * 4, state.w + (i64)(i / PIECES) * value_dim + column + i % PIECES * 4);
  copy_async_commit();
  if (thread < count) own.sums[thread] = state.sums[thread];
}

/* Zeros in the columns and rows that no key reaches. */
template <int COLUMNS>
__device__ __forceinline__ void clear_chunk(ChunkStep<COLUMNS>& own, i32 key_dim) {
  constexpr i32 THREADS = 4 * COLUMNS;
  const i32 missing = CHUNK_KEYS - key_dim;
  for (i32 i = threadIdx.x; i < missing * (CHUNK + 1); i += THREADS) {
    float* row = i / missing < CHUNK ? own.k[i / missing] : own.q;
    row[key_dim + i % missing] = 0.0f;
  }
  for (i32 i = threadIdx.x; i < missing * COLUMNS; i += THREADS) own.s[key_dim + i / COLUMNS][i % COLUMNS] = 0.0f;
}

/* Factors and G of token i of the chunk, by a whole warp. */
template <int COLUMNS>
__device__ __forceinline__ void step_factors(ChunkStep<COLUMNS>& own, i32 i, float a, float b, float decay, float dt_bias, i32 key_dim) {
  const i32 lane = threadIdx.x % 32;
  float kk = 0, qq = 0;
#pragma unroll
  for (int r = 0; r < CHUNK_KEYS / 32; r++) {
    const float k = own.k[i][lane + 32 * r], q = own.q[lane + 32 * r];
    kk = __fmaf_rn(k, k, kk), qq = __fmaf_rn(q, q, qq);
  }
  const float sum = __fadd_rn(i > 0 ? own.sums[i - 1] : 0.0f, log_decay(a, dt_bias, decay));
  const ChunkFactors f = chunk_factors(sum, b, warp_sum(kk), warp_sum(qq), key_dim);
  __syncwarp();
  if (lane == 0) own.factors = f, own.sums[i] = sum;
}

/* Products of the token's k and q with S, where there is one, and with the chunk's keys: element n of a tile's eight is k's for 0, q's for 1. */
template <int COLUMNS>
__device__ __forceinline__ void step_products(ChunkStep<COLUMNS>& own, i32 i, bool any, i32 key_dim) {
  const i32 warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const i32 first = warp / 2 * 16, half = warp % 2, tiles = half_tiles(key_dim, half);
  const float* of = (g == 0 ? own.k[i] : own.q) + 64 * half + 2 * t;
  auto token = [&](int tile) {
    const float2 pair = g < 2 ? *(const float2*)(of + 8 * tile) : make_float2(0.0f, 0.0f);
    return Parts<2>({pair.x, pair.y});
  };
  TileSum sums;
  if (any) {
#pragma unroll
    for (int tile = 0; tile < HALF_TILES; tile++) {
      if (tile >= tiles) break;
      const float* at = own.s[64 * half + 8 * tile + 2 * t] + first + 2 * g;
      const float2 x = *(const float2*)at, y = *(const float2*)(at + COLUMNS + 4);
      sums.add(Parts<4>({x.x, x.y, y.x, y.y}), token(tile));
    }
  }
  if (t == 0)
    for (int e = 0; e < 4; e++) own.products[half][e % 2][first + 2 * g + e / 2] = sums[e];
  if (warp / 2 < COLUMNS / 16 - 1) return;
  TileSum keys;
#pragma unroll
  for (int tile = 0; tile < HALF_TILES; tile++)
    if (tile < tiles) keys.add(key_tile(own.k, 64 * half + 8 * tile), token(tile));
  if (t == 0)
    for (int e = 0; e < 4; e++) own.gram[half][e % 2][g + e / 2 * 8] = keys[e];
}

/* w and, returned, y of the thread's column: for whole warps of the first COLUMNS threads. */
template <int COLUMNS>
__device__ __forceinline__ float step_values(ChunkStep<COLUMNS>& own, i32 i) {
  const i32 column = threadIdx.x, m = column % CHUNK;
  const ChunkFactors f = own.factors;
  const float of_key = m < i ? chunk_share(f.k_scale, f.sum, own.sums[m], __fadd_rn(own.gram[0][0][m], own.gram[1][0][m])) : 0.0f;
  const float of_query = m <= i ? chunk_share(f.q_scale, f.sum, own.sums[m], __fadd_rn(own.gram[0][1][m], own.gram[1][1][m])) : 0.0f;
  float left = __fmaf_rn(-f.predict, __fadd_rn(own.products[0][0][column], own.products[1][0][column]), own.v[column]);
  float y = __fmul_rn(f.read, __fadd_rn(own.products[0][1][column], own.products[1][1][column]));
#pragma unroll
  for (int before = 0; before < CHUNK - 1; before++) {
    const float key = __shfl_sync(~0u, of_key, before), query = __shfl_sync(~0u, of_query, before);
    if (before >= i) continue;
    const float w = own.w[before][column];
    left = __fmaf_rn(-key, w, left), y = __fmaf_rn(query, w, y);
  }
  const float w = __fmul_rn(f.write, left);
  own.w[i][column] = w;
  return __fmaf_rn(__shfl_sync(~0u, of_query, i), w, y);
}

/* Writes what token i, which does not end its chunk, leaves: w of the block's columns and, where `keys`, k and G. */
template <int COLUMNS>
__device__ __forceinline__ void keep_token(const ChunkStep<COLUMNS>& own, const ChunkState& state, i32 i, bool keys, i32 column, i32 key_dim, i32 value_dim) {
  const i32 thread = threadIdx.x;
  if (thread < COLUMNS) state.w[(i64)i * value_dim + column + thread] = own.w[i][thread];
  if (!keys) return;
  if (thread < key_dim) state.k[i * key_dim + thread] = own.k[i][thread];
  if (thread == 0) state.sums[i] = own.sums[i];
}

/* S after the chunk, to where the state lies if it has a slot, and to shared memory. */
template <int COLUMNS>
__device__ __forceinline__ void end_chunk(ChunkStep<COLUMNS>& own, const ChunkState& state, bool any, bool keeps, i32 column, i32 key_dim, i32 value_dim) {
  const i32 warp = threadIdx.x / 32, first = warp / 2 * 16, half = warp % 2, keys = key_dim - 64 * half;
  const ChunkEnd end(own.w[0] + first, COLUMNS + 8, own.sums[threadIdx.x % CHUNK]);
  for (i32 tile = 0; tile < half_tiles(key_dim, half); tile++) {
    float s[4] = {};
    const i32 key = 64 * half + 8 * tile;
    if (any) move_tile<false>(s, own.s[key] + first, COLUMNS + 4, keys - 8 * tile);
    end.fold(s, own.k[0] + key);
    move_tile<true>(s, own.s[key] + first, COLUMNS + 4, keys - 8 * tile);
    if (keeps) move_tile<true>(s, state.s + (i64)key * value_dim + column + first, value_dim, keys - 8 * tile);
  }
}

/* Few registers, so that a block fits beside those of the product before it and reads its state while they run. */
template <int THREADS>
__global__ void __launch_bounds__(THREADS, 1024 / THREADS) gated_delta_step_kernel(const __grid_constant__ ChunkStepArguments p) {
  constexpr i32 COLUMNS = THREADS / 4;
  PSI_DYNAMIC_SHARED(dynamic);
  ChunkStep<COLUMNS>& own = *(ChunkStep<COLUMNS>*)dynamic;
  __shared__ float read[STEP_WIDTH];
  __shared__ u32 before;
  let_next_start();
  const i32 thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const i32 head = blockIdx.x, sequence = blockIdx.y, key_dim = p.key_dim, value_dim = p.value_dim;
  const i32 key_head = p.tiled ? head % p.key_heads : head / (p.value_heads / p.key_heads), sharers = p.value_heads / p.key_heads;
  const i32 keys = p.key_heads * key_dim, channels = 2 * keys + p.value_heads * value_dim;

  /* this thread's channel, where it goes, and its weights behind zeros */
  const bool has_channel = thread < 2 * key_dim + value_dim, of_head = thread >= 2 * key_dim;
  const i32 channel = of_head ? 2 * keys + head * value_dim + thread - 2 * key_dim : thread / key_dim * keys + key_head * key_dim + thread % key_dim;
  const bool of_key = thread >= key_dim && !of_head;
  float w[STEP_TAPS] = {}, past[STEP_TAPS - 1] = {};
#pragma unroll
  for (int j = 0; j < STEP_TAPS; j++)
    if (has_channel && j >= STEP_TAPS - p.taps) w[j] = p.conv_w[(i64)channel * p.taps + j - (STEP_TAPS - p.taps)];
  const float decay = p.decay[head], dt_bias = p.dt_bias[head], norm_w = thread < value_dim ? p.norm_w[thread] : 0.0f;
  clear_chunk(own, key_dim);

  /* the sequence's tokens stand together */
  u32 here[STEP_MOST / 32];
#pragma unroll
  for (int i = 0; i < STEP_MOST / 32; i++) here[i] = __ballot_sync(~0u, lane + 32 * i < p.r.tokens && p.r.sequence[min(lane + 32 * i, p.r.tokens - 1)] == sequence);
  const i32 first = here[0] ? __ffs((int)here[0]) - 1 : 31 + __ffs((int)here[1]), end = first + __popc(here[0]) + __popc(here[1]);
  if (!here[0] && !here[1]) {
    wait_for_inputs();
    return;
  }
  const i32 slot = slot_of(p.r, sequence);
  const i32 position = slot < 0 ? 0 : p.r.position[first];
  bool any = position >= CHUNK; /* there is an S */
  float* taps_state = p.taps_state + (i64)max(slot, 0) * (p.taps - 1) * channels + channel;
  const ChunkState state(p.state, (i64)max(slot, 0) * p.value_heads + head, p.state_rows, key_dim, value_dim);
  auto read_states = [&] {
    if (position == 0) return;
#pragma unroll
    for (int j = 0; j < STEP_TAPS - 1; j++)
      if (has_channel && j >= STEP_TAPS - p.taps) past[j] = taps_state[(i64)(j - (STEP_TAPS - p.taps)) * channels];
    read_chunk(own, state, any, position % CHUNK, 0, key_dim, value_dim);
  };
  if (p.ahead) read_states();
  wait_for_inputs();
  if (!p.ahead) read_states();

#pragma unroll 1
  for (i32 t = first; t < end; t++) {
    const i32 i = (position + t - first) % CHUNK;
    const float x = has_channel ? p.x[t * p.stride + channel] : 0.0f;
    const float z = thread < value_dim ? p.z[t * p.z_stride + (i64)head * value_dim + thread] : 0.0f;
    const float a = warp == 0 ? p.a[t * p.a_stride + head] : 0.0f, b = warp == 0 ? p.b[t * p.b_stride + head] : 0.0f;
    float sum = 0;
#pragma unroll
    for (int j = 0; j < STEP_TAPS - 1; j++) sum = __fmaf_rn(w[j], past[j], sum);
    sum = __fmaf_rn(w[STEP_TAPS - 1], x, sum);
#pragma unroll
    for (int j = 0; j < STEP_TAPS - 2; j++) past[j] = past[j + 1];
    past[STEP_TAPS - 2] = x;
    float* convolved = of_head ? own.v + thread - 2 * key_dim : of_key ? own.k[i] + thread - key_dim : own.q + thread;
    if (has_channel) *convolved = __fmul_rn(sum, gate_sigmoid(sum));
    copy_async_wait<0>();
    __syncthreads();
    if (t == first && thread == 0 && slot >= 0 && sharers > 1) { /* all of the block have read what they share */
      __threadfence();
      before = atomicAdd(step_arrived + sequence * STEP_MOST + key_head, 1u);
    }
    if (warp == 0) step_factors(own, i, a, b, decay, dt_bias, key_dim);
    step_products(own, i, any, key_dim);
    __syncthreads();
    if (thread < COLUMNS) read[thread] = step_values(own, i);
    __syncthreads();
    if (i < CHUNK - 1) {
      if (slot >= 0) keep_token(own, state, i, true, 0, key_dim, value_dim);
    } else {
      end_chunk(own, state, any, slot >= 0, 0, key_dim, value_dim);
      any = true;
      __syncthreads();
    }
    if (warp * 32 < value_dim) { /* rms_norm_gated, of which a warp makes 32 elements */
      float squares = 0;
#pragma unroll
      for (int i = 0; i < STEP_WIDTH / 32; i++) {
        const float one = lane + 32 * i < value_dim ? read[lane + 32 * i] : 0.0f;
        squares = __fmaf_rn(one, one, squares);
      }
      const float scale = 1.0f / sqrtf(__fadd_rn(warp_sum(squares) / (float)value_dim, p.eps));
      p.y[((i64)t * p.value_heads + head) * value_dim + thread] = gated_activation(0, z, __fmul_rn(__fmul_rn(read[thread], scale), norm_w), 0, 0);
    }
  }
  if (slot < 0) return;
  const bool writes = of_head || sharers == 1 || before == (u32)sharers - 1;
#pragma unroll
  for (int j = 0; j < STEP_TAPS - 1; j++)
    if (has_channel && writes && j >= STEP_TAPS - p.taps) taps_state[(i64)(j - (STEP_TAPS - p.taps)) * channels] = past[j];
  if (thread == 0 && sharers > 1 && writes) step_arrived[sequence * STEP_MOST + key_head] = 0;
}

#if !defined(PSI_STANDIN)
/*
 * ---- Hopper: a head of 128 by 128 is four blocks', a cluster, each with 32 columns of S, so that four multiprocessors move it ----
 * A block convolves all of q and k and its part of v for itself; what its columns read goes to all four for their norm.
 */
constexpr int CLUSTER = 4, CLUSTER_THREADS = 128, CLUSTER_COLUMNS = STEP_WIDTH / CLUSTER, CLUSTER_CHANNELS = 3; /* q, k, v of a thread */

__device__ __forceinline__ void store_to_cluster(float* shared, float value) {
#if __CUDA_ARCH__ >= 900
  const u32 own = shared_address(shared);
#pragma unroll
  for (int rank = 0; rank < CLUSTER; rank++) {
    u32 other;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(other) : "r"(own), "r"(rank));
    asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(other), "f"(value) : "memory");
  }
#endif
}
__device__ __forceinline__ void cluster_arrive() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}
__device__ __forceinline__ void cluster_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

/* Older cards have no clusters, and their machine code of this kernel is never launched. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define CLUSTERED
#else
#define CLUSTERED __cluster_dims__(CLUSTER, 1, 1)
#endif

__global__ void CLUSTERED __launch_bounds__(CLUSTER_THREADS, 4) gated_delta_cluster_kernel(const __grid_constant__ ChunkStepArguments p) {
  __shared__ ChunkStep<CLUSTER_COLUMNS> own;
  __shared__ float read[2][STEP_WIDTH];
  __shared__ u32 before;
  let_next_start();
  const i32 thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const i32 head = blockIdx.x / CLUSTER, first_column = blockIdx.x % CLUSTER * CLUSTER_COLUMNS, sequence = blockIdx.y;
  const i32 key_head = p.tiled ? head % p.key_heads : head / (p.value_heads / p.key_heads), sharers = p.value_heads / p.key_heads * CLUSTER;
  const i32 keys = p.key_heads * STEP_WIDTH, channels = 2 * keys + p.value_heads * STEP_WIDTH;
  i32 channel[CLUSTER_CHANNELS] = {key_head * STEP_WIDTH + thread, keys + key_head * STEP_WIDTH + thread, 2 * keys + head * STEP_WIDTH + first_column + thread};
  const bool has_v = thread < CLUSTER_COLUMNS;
  float w[CLUSTER_CHANNELS][STEP_TAPS] = {}, past[CLUSTER_CHANNELS][STEP_TAPS - 1] = {};
  if (!has_v) channel[2] = channel[1];
#pragma unroll
  for (int c = 0; c < CLUSTER_CHANNELS; c++)
#pragma unroll
    for (int j = 0; j < STEP_TAPS; j++)
      if (j >= STEP_TAPS - p.taps) w[c][j] = p.conv_w[(i64)channel[c] * p.taps + j - (STEP_TAPS - p.taps)];
  const float decay = p.decay[head], dt_bias = p.dt_bias[head], norm_w = has_v ? p.norm_w[first_column + thread] : 0.0f;

  u32 here[STEP_MOST / 32];
#pragma unroll
  for (int i = 0; i < STEP_MOST / 32; i++) here[i] = __ballot_sync(~0u, lane + 32 * i < p.r.tokens && p.r.sequence[min(lane + 32 * i, p.r.tokens - 1)] == sequence);
  const i32 first = here[0] ? __ffs((int)here[0]) - 1 : 31 + __ffs((int)here[1]), end = first + __popc(here[0]) + __popc(here[1]);
  if (!here[0] && !here[1]) {
    wait_for_inputs();
    return;
  }
  cluster_arrive(); /* begun: the others may write to this block's shared memory */
  const i32 slot = slot_of(p.r, sequence);
  const i32 position = slot < 0 ? 0 : p.r.position[first];
  bool any = position >= CHUNK; /* there is an S */
  float* taps_state = p.taps_state + (i64)max(slot, 0) * (p.taps - 1) * channels;
  const ChunkState state(p.state, (i64)max(slot, 0) * p.value_heads + head, p.state_rows, STEP_WIDTH, STEP_WIDTH);
  auto read_states = [&] {
    if (position == 0) return;
#pragma unroll
    for (int c = 0; c < CLUSTER_CHANNELS; c++)
#pragma unroll
      for (int j = 0; j < STEP_TAPS - 1; j++)
        if (j >= STEP_TAPS - p.taps) past[c][j] = taps_state[(i64)(j - (STEP_TAPS - p.taps)) * channels + channel[c]];
    read_chunk(own, state, any, position % CHUNK, first_column, STEP_WIDTH, STEP_WIDTH);
  };
  if (p.ahead) read_states();
  wait_for_inputs();
  if (!p.ahead) read_states();
  cluster_wait();

#pragma unroll 1
  for (i32 t = first; t < end; t++) {
    const i32 i = (position + t - first) % CHUNK;
    float* convolved[CLUSTER_CHANNELS] = {own.q + thread, own.k[i] + thread, own.v + lane};
    float x[CLUSTER_CHANNELS];
#pragma unroll
    for (int c = 0; c < CLUSTER_CHANNELS; c++) x[c] = p.x[t * p.stride + channel[c]];
    const float z = has_v ? p.z[t * p.z_stride + (i64)head * STEP_WIDTH + first_column + thread] : 0.0f;
    const float a = warp == 0 ? p.a[t * p.a_stride + head] : 0.0f, b = warp == 0 ? p.b[t * p.b_stride + head] : 0.0f;
#pragma unroll
    for (int c = 0; c < CLUSTER_CHANNELS; c++) {
      float sum = 0;
#pragma unroll
      for (int j = 0; j < STEP_TAPS - 1; j++) sum = __fmaf_rn(w[c][j], past[c][j], sum);
      sum = __fmaf_rn(w[c][STEP_TAPS - 1], x[c], sum);
#pragma unroll
      for (int j = 0; j < STEP_TAPS - 2; j++) past[c][j] = past[c][j + 1];
      past[c][STEP_TAPS - 2] = x[c];
      if (c < 2 || has_v) *convolved[c] = __fmul_rn(sum, gate_sigmoid(sum));
    }
    copy_async_wait<0>();
    __syncthreads();
    if (t == first && thread == 0 && slot >= 0) { /* all of the block have read what they share */
      __threadfence();
      before = atomicAdd(step_arrived + sequence * STEP_MOST + key_head, 1u);
    }
    if (warp == 0) step_factors(own, i, a, b, decay, dt_bias, STEP_WIDTH);
    step_products(own, i, any, STEP_WIDTH);
    __syncthreads();
    float* all = read[(t - first) % 2];
    if (has_v) store_to_cluster(all + first_column + thread, step_values(own, i));
    cluster_arrive();
    cluster_wait(); /* all have read the chunk's keys, too */
    if (warp == 0) {
      float squares = 0;
#pragma unroll
      for (int i = 0; i < STEP_WIDTH / 32; i++) squares = __fmaf_rn(all[lane + 32 * i], all[lane + 32 * i], squares);
      const float scale = 1.0f / sqrtf(__fadd_rn(warp_sum(squares) / (float)STEP_WIDTH, p.eps));
      p.y[((i64)t * p.value_heads + head) * STEP_WIDTH + first_column + lane] = gated_activation(0, z, __fmul_rn(__fmul_rn(all[first_column + lane], scale), norm_w), 0, 0);
    }
    if (i < CHUNK - 1) {
      if (slot >= 0) keep_token(own, state, i, first_column == 0, first_column, STEP_WIDTH, STEP_WIDTH);
    } else {
      end_chunk(own, state, any, slot >= 0, first_column, STEP_WIDTH, STEP_WIDTH);
      any = true;
      __syncthreads();
    }
  }
  if (slot < 0) return;
  const bool last = before == (u32)sharers - 1;
#pragma unroll
  for (int c = 0; c < CLUSTER_CHANNELS; c++)
#pragma unroll
    for (int j = 0; j < STEP_TAPS - 1; j++)
      if ((c == 2 ? has_v : last) && j >= STEP_TAPS - p.taps) taps_state[(i64)(j - (STEP_TAPS - p.taps)) * channels + channel[c]] = past[c][j];
  if (thread == 0 && last) step_arrived[sequence * STEP_MOST + key_head] = 0;
}
#endif

/* The state of the call before: its kernel may still run when the next one's begins. */
static const void* moved_state;

static bool lies_in(i64 offset, i64 width, i64 row) { return offset >= 0 && offset + width <= row; }

}  // namespace psi

PSI_API i32 psi_gated_delta_step(void* y, void* taps_state, void* state, const void* qkv, const void* z, const void* a, const void* b, const void* conv_w, const void* decay, const void* dt_bias, const void* norm_w, const void* token_sequence, const void* token_position, const void* sequence_slot, i32 tokens, i32 stride, i32 offset, i32 z_stride, i32 z_offset, i32 a_stride, i32 a_offset, i32 b_stride, i32 b_offset, i32 key_heads, i32 value_heads, i32 key_dim, i32 value_dim, i32 taps, i32 sequences, i32 slots, i32 tiled, f32 eps) {
  using namespace psi;
  const char* op = "psi_gated_delta_step";
  if (!y || !taps_state || !state || !qkv || !z || !a || !b || !conv_w || !decay || !dt_bias || !norm_w) return fail(PSI_INVALID, "[%s] expected non-null pointers.", op);
  if (key_heads < 1 || key_heads > STEP_MOST || value_heads < 1 || value_heads % key_heads)
    return fail(PSI_INVALID, "[%s] expected value heads in multiples of 1 to %d key heads, got %d and %d.", op, STEP_MOST, value_heads, key_heads);
  if (value_dim < 32 || value_dim > STEP_WIDTH || value_dim % 32 || key_dim < 4 || key_dim > STEP_WIDTH || key_dim % 4 || 2 * key_dim > 3 * value_dim)
    return fail(PSI_UNSUPPORTED, "[%s] expected values of 32 to %d in 32s and keys in fours up to 1.5 times that, got %d and %d.", op, STEP_WIDTH, value_dim, key_dim);
  if (taps < 2 || taps > STEP_TAPS) return fail(PSI_UNSUPPORTED, "[%s] expected 2 to %d taps, got %d.", op, STEP_TAPS, taps);
  const i64 values = (i64)value_heads * value_dim;
  if (!lies_in(offset, 2 * (i64)key_heads * key_dim + values, stride) || !lies_in(z_offset, values, z_stride) || !lies_in(a_offset, value_heads, a_stride) || !lies_in(b_offset, value_heads, b_stride))
    return fail(PSI_INVALID, "[%s] expected q, k, v, z, a and b inside rows of %d, %d, %d and %d, got them from %d, %d, %d and %d.", op, stride, z_stride, a_stride, b_stride, offset, z_offset, a_offset, b_offset);
  if (tiled < 0 || tiled > 1) return fail(PSI_INVALID, "[%s] expected tiled 0 or 1, got %d.", op, tiled);
  const Recurrent r = {(const i32*)token_sequence, (const i32*)token_position, (const i32*)sequence_slot, tokens, sequences, slots};
  PSI_TRY(check_recurrent(op, r));
  if (tokens > STEP_MOST || sequences > STEP_MOST) return fail(PSI_UNSUPPORTED, "[%s] expected at most %d tokens and sequences, got %d and %d.", op, STEP_MOST, tokens, sequences);
  if ((uintptr_t)state % 16 != 0) return fail(PSI_INVALID, "[%s] expected a state aligned to 16 bytes.", op);
  if (tokens == 0) return PSI_OK;
  const ChunkStepArguments p = {(float*)y, (float*)taps_state, (float*)state, (const float*)qkv + offset, (const float*)z + z_offset, (const float*)a + a_offset,
                                (const float*)b + b_offset, (const float*)conv_w, (const float*)decay, (const float*)dt_bias, (const float*)norm_w, r, stride, z_stride,
                                a_stride, b_stride, key_heads, value_heads, key_dim, value_dim, chunk_state_rows(key_dim, value_dim), taps, tiled != 0, moved_state != state, eps};
  moved_state = state;
#if !defined(PSI_STANDIN)
  if (device.compute >= 90 && key_dim == STEP_WIDTH && value_dim == STEP_WIDTH && (i64)value_heads * sequences <= device.multiprocessors)
    return launch(op, gated_delta_cluster_kernel, dim3((u32)value_heads * CLUSTER, (u32)sequences), dim3(CLUSTER_THREADS), 0, p);
#endif
  const dim3 grid((u32)value_heads, (u32)sequences);
  switch (value_dim / 32) {
    case 1: return launch(op, gated_delta_step_kernel<128>, grid, dim3(128), sizeof(ChunkStep<32>), p);
    case 2: return launch(op, gated_delta_step_kernel<256>, grid, dim3(256), sizeof(ChunkStep<64>), p);
    case 3: return launch(op, gated_delta_step_kernel<384>, grid, dim3(384), sizeof(ChunkStep<96>), p);
    default: return launch(op, gated_delta_step_kernel<512>, grid, dim3(512), sizeof(ChunkStep<128>), p);
  }
}
