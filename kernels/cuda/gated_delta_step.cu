/*
 * A generation step of a gated delta rule layer: causal_conv1d, gated_delta_rule and rms_norm_gated in one, with the bits of the
 * three; states and layouts in ffi/psionic.h. A block has a value head of a sequence whole, 4 threads to a column of it: a
 * thread convolves one channel of q, k or v, then keeps 2 columns of 16 rows of S (delta.cuh).
 *
 * The convolution's state of q and k is read by the blocks of all value heads of a key head: the one that counts itself last
 * writes it. States are read before the step's inputs are there, unless the same state was moved by the call before.
 */
#include "delta.cuh"
#include "glu.cuh"

namespace psi {

constexpr i32 STEP_TAPS = 4, STEP_MOST = 64, STEP_ROWS = 16, STEP_WIDTH = 128; /* STEP_MOST: tokens, sequences, key heads */

__device__ u32 step_arrived[STEP_MOST * STEP_MOST]; /* [sequence][key head]; 0 between launches */

struct DeltaStepArguments {
  float *y, *taps_state, *state;
  const float *x, *z, *a, *b, *conv_w, *decay, *dt_bias, *norm_w; /* x to b: of token 0 */
  Recurrent r;
  i64 stride, z_stride, a_stride, b_stride;
  i32 key_heads, value_heads, key_dim, value_dim, taps;
  bool tiled, ahead; /* ahead: no kernel that may still run writes the states */
  float eps;
};

/* The same from shared memory, where they are used, so that they need few registers. */
struct StepRows {
  const float* from;
  __device__ __forceinline__ float4 four(int i) const { return *(const float4*)(from + i * 32 + threadIdx.x % 8 * 4); }
};

/* k.k, q.q and k.q as gated_delta_rule.cu sums them, and what follows from them and the raw gates: for a whole warp. */
__device__ __forceinline__ DeltaFactors step_factors(const float* k, const float* q, float a, float b, float decay, float dt_bias, i32 key_dim) {
  const i32 lane = threadIdx.x % 32;
  float kk = 0, qq = 0, kq = 0;
#pragma unroll
  for (int r = 0; r < STEP_ROWS / 4; r++) {
    const float key = k[lane + 32 * r], query = q[lane + 32 * r];
    kk = __fmaf_rn(key, key, kk), qq = __fmaf_rn(query, query, qq), kq = __fmaf_rn(key, query, kq);
  }
  return delta_factors(a, b, decay, dt_bias, warp_sum(kk), warp_sum(qq), warp_sum(kq), key_dim);
}

/* Few registers, so that a block fits beside those of the product before it and reads its state while they run. */
template <int THREADS>
__global__ void __launch_bounds__(THREADS, 1024 / THREADS) gated_delta_step_kernel(const __grid_constant__ DeltaStepArguments p) {
  __shared__ __align__(16) float q[STEP_WIDTH], k[STEP_WIDTH], v[STEP_WIDTH], read[STEP_WIDTH];
  __shared__ DeltaFactors factors;
  __shared__ u32 before;
  let_next_start();
  const i32 thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const i32 head = blockIdx.x, sequence = blockIdx.y, key_dim = p.key_dim, value_dim = p.value_dim;
  const i32 key_head = p.tiled ? head % p.key_heads : head / (p.value_heads / p.key_heads), sharers = p.value_heads / p.key_heads;
  const i32 keys = p.key_heads * key_dim, channels = 2 * keys + p.value_heads * value_dim;

  /* this thread's channel, where it goes, and its weights behind zeros */
  const bool has_channel = thread < 2 * key_dim + value_dim, of_head = thread >= 2 * key_dim;
  const i32 channel = of_head ? 2 * keys + head * value_dim + thread - 2 * key_dim : thread / key_dim * keys + key_head * key_dim + thread % key_dim;
  float* convolved = of_head ? v + thread - 2 * key_dim : thread < key_dim ? q + thread : k + thread - key_dim;
  float w[STEP_TAPS] = {}, past[STEP_TAPS - 1] = {};
#pragma unroll
  for (int j = 0; j < STEP_TAPS; j++)
    if (has_channel && j >= STEP_TAPS - p.taps) w[j] = p.conv_w[(i64)channel * p.taps + j - (STEP_TAPS - p.taps)];
  const float decay = p.decay[head], dt_bias = p.dt_bias[head], norm_w = thread < value_dim ? p.norm_w[thread] : 0.0f;
  for (i32 i = thread; i < STEP_WIDTH; i += THREADS)
    if (i >= key_dim) q[i] = k[i] = 0.0f;

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
  const bool fresh = slot < 0 || p.r.position[first] == 0;
  float* taps_state = p.taps_state + (i64)max(slot, 0) * (p.taps - 1) * channels + channel;
  float* state = p.state + ((i64)max(slot, 0) * p.value_heads + head) * key_dim * value_dim;
  const i32 column = thread / 8 * 2;
  float s[STEP_ROWS][2] = {};
  auto read_states = [&] {
    if (fresh) return;
#pragma unroll
    for (int j = 0; j < STEP_TAPS - 1; j++)
      if (has_channel && j >= STEP_TAPS - p.taps) past[j] = taps_state[(i64)(j - (STEP_TAPS - p.taps)) * channels];
    move_state<STEP_ROWS, true, false>(s, state, key_dim, value_dim, column);
  };
  if (p.ahead) read_states();
  wait_for_inputs();
  if (!p.ahead) read_states();

#pragma unroll 1
  for (i32 t = first; t < end; t++) {
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
    if (has_channel) *convolved = __fmul_rn(sum, gate_sigmoid(sum));
    __syncthreads();
    if (t == first && thread == 0 && slot >= 0 && sharers > 1) { /* all of the block have read what they share */
      __threadfence();
      before = atomicAdd(step_arrived + sequence * STEP_MOST + key_head, 1u);
    }
    if (warp == 0) {
      const DeltaFactors f = step_factors(k, q, a, b, decay, dt_bias, key_dim);
      if (lane == 0) factors = f;
    }
    const float part = delta_sums<STEP_ROWS>(s, StepRows{k}, StepRows{q}, [] {});
    __syncthreads();
    const float2 u = delta_change(part, v[column + own_column()], factors, [&](i32 own, float y) { read[own] = y; });
    delta_move<STEP_ROWS>(s, StepRows{k}, u, factors.decay);
    __syncthreads();
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
  move_state<STEP_ROWS, true, true>(s, state, key_dim, value_dim, column);
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

__global__ void CLUSTERED __launch_bounds__(CLUSTER_THREADS, 4) gated_delta_cluster_kernel(const __grid_constant__ DeltaStepArguments p) {
  __shared__ __align__(16) float q[STEP_WIDTH], k[STEP_WIDTH], v[CLUSTER_COLUMNS], read[2][STEP_WIDTH];
  __shared__ DeltaFactors factors;
  __shared__ u32 before;
  let_next_start();
  const i32 thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const i32 head = blockIdx.x / CLUSTER, first_column = blockIdx.x % CLUSTER * CLUSTER_COLUMNS, sequence = blockIdx.y;
  const i32 key_head = p.tiled ? head % p.key_heads : head / (p.value_heads / p.key_heads), sharers = p.value_heads / p.key_heads * CLUSTER;
  const i32 keys = p.key_heads * STEP_WIDTH, channels = 2 * keys + p.value_heads * STEP_WIDTH;
  i32 channel[CLUSTER_CHANNELS] = {key_head * STEP_WIDTH + thread, keys + key_head * STEP_WIDTH + thread, 2 * keys + head * STEP_WIDTH + first_column + thread};
  const bool has_v = thread < CLUSTER_COLUMNS;
  float* convolved[CLUSTER_CHANNELS] = {q + thread, k + thread, v + lane};
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
  const bool fresh = slot < 0 || p.r.position[first] == 0;
  float* taps_state = p.taps_state + (i64)max(slot, 0) * (p.taps - 1) * channels;
  float* state = p.state + ((i64)max(slot, 0) * p.value_heads + head) * STEP_WIDTH * STEP_WIDTH;
  const i32 column = thread / 8 * 2;
  float s[STEP_ROWS][2] = {};
  auto read_states = [&] {
    if (fresh) return;
#pragma unroll
    for (int c = 0; c < CLUSTER_CHANNELS; c++)
#pragma unroll
      for (int j = 0; j < STEP_TAPS - 1; j++)
        if (j >= STEP_TAPS - p.taps) past[c][j] = taps_state[(i64)(j - (STEP_TAPS - p.taps)) * channels + channel[c]];
    move_state<STEP_ROWS, true, false>(s, state, STEP_WIDTH, STEP_WIDTH, first_column + column);
  };
  if (p.ahead) read_states();
  wait_for_inputs();
  if (!p.ahead) read_states();
  cluster_wait();

#pragma unroll 1
  for (i32 t = first; t < end; t++) {
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
    __syncthreads();
    if (t == first && thread == 0 && slot >= 0) { /* all of the block have read what they share */
      __threadfence();
      before = atomicAdd(step_arrived + sequence * STEP_MOST + key_head, 1u);
    }
    if (warp == 0) {
      const DeltaFactors f = step_factors(k, q, a, b, decay, dt_bias, STEP_WIDTH);
      if (lane == 0) factors = f;
    }
    const float part = delta_sums<STEP_ROWS>(s, StepRows{k}, StepRows{q}, [] {});
    __syncthreads();
    float* all = read[(t - first) % 2];
    const float2 u = delta_change(part, v[column + own_column()], factors, [&](i32 own, float y) { store_to_cluster(all + first_column + own, y); });
    delta_move<STEP_ROWS>(s, StepRows{k}, u, factors.decay);
    cluster_arrive();
    cluster_wait();
    if (warp == 0) {
      float squares = 0;
#pragma unroll
      for (int i = 0; i < STEP_WIDTH / 32; i++) squares = __fmaf_rn(all[lane + 32 * i], all[lane + 32 * i], squares);
      const float scale = 1.0f / sqrtf(__fadd_rn(warp_sum(squares) / (float)STEP_WIDTH, p.eps));
      p.y[((i64)t * p.value_heads + head) * STEP_WIDTH + first_column + lane] = gated_activation(0, z, __fmul_rn(__fmul_rn(all[first_column + lane], scale), norm_w), 0, 0);
    }
  }
  if (slot < 0) return;
  move_state<STEP_ROWS, true, true>(s, state, STEP_WIDTH, STEP_WIDTH, first_column + column);
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

static bool in_rows(i64 offset, i64 width, i64 row) { return offset >= 0 && offset + width <= row; }

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
  if (!in_rows(offset, 2 * (i64)key_heads * key_dim + values, stride) || !in_rows(z_offset, values, z_stride) || !in_rows(a_offset, value_heads, a_stride) || !in_rows(b_offset, value_heads, b_stride))
    return fail(PSI_INVALID, "[%s] expected q, k, v, z, a and b inside rows of %d, %d, %d and %d, got them from %d, %d, %d and %d.", op, stride, z_stride, a_stride, b_stride, offset, z_offset, a_offset, b_offset);
  if (tiled < 0 || tiled > 1) return fail(PSI_INVALID, "[%s] expected tiled 0 or 1, got %d.", op, tiled);
  const Recurrent r = {(const i32*)token_sequence, (const i32*)token_position, (const i32*)sequence_slot, tokens, sequences, slots};
  PSI_TRY(check_recurrent(op, r));
  if (tokens > STEP_MOST || sequences > STEP_MOST) return fail(PSI_UNSUPPORTED, "[%s] expected at most %d tokens and sequences, got %d and %d.", op, STEP_MOST, tokens, sequences);
  if ((uintptr_t)state % 8 != 0) return fail(PSI_INVALID, "[%s] expected a state aligned to 8 bytes.", op);
  if (tokens == 0) return PSI_OK;
  const DeltaStepArguments p = {(float*)y, (float*)taps_state, (float*)state, (const float*)qkv + offset, (const float*)z + z_offset, (const float*)a + a_offset,
                                (const float*)b + b_offset, (const float*)conv_w, (const float*)decay, (const float*)dt_bias, (const float*)norm_w, r, stride, z_stride,
                                a_stride, b_stride, key_heads, value_heads, key_dim, value_dim, taps, tiled != 0, moved_state != state, eps};
  moved_state = state;
#if !defined(PSI_STANDIN)
  if (device.compute >= 90 && key_dim == STEP_WIDTH && value_dim == STEP_WIDTH && (i64)value_heads * sequences <= device.multiprocessors)
    return launch(op, gated_delta_cluster_kernel, dim3((u32)value_heads * CLUSTER, (u32)sequences), dim3(CLUSTER_THREADS), 0, p);
#endif
  const dim3 grid((u32)value_heads, (u32)sequences);
  switch (value_dim / 32) {
    case 1: return launch(op, gated_delta_step_kernel<128>, grid, dim3(128), 0, p);
    case 2: return launch(op, gated_delta_step_kernel<256>, grid, dim3(256), 0, p);
    case 3: return launch(op, gated_delta_step_kernel<384>, grid, dim3(384), 0, p);
    default: return launch(op, gated_delta_step_kernel<512>, grid, dim3(512), 0, p);
  }
}
