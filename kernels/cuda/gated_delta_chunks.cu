/*
 * The gated delta rule by chunks (delta_chunk.cuh), for prompts; layouts and states in ffi/psionic.h. All sums f32 or as good.
 *
 * A block of four warps has 32 columns of a head of a sequence: a warp 16 of them by 64 keys of S in registers, from the state before
 * its first token to that after its last. Per chunk: products of k and q with S and with the chunk's keys, by the warps; then, a
 * thread a column, what predictions leave of v; one warp solves for w, token after token; then y and the state after the
 * chunk. The next chunk's tokens are copied meanwhile. What the blocks of a head read of the state's k and G is written by a
 * kernel of its own, when all have read.
 */
#include "delta_chunk.cuh"

namespace psi {

constexpr int CHUNK_THREADS = 128, CHUNK_COLUMNS = 32, CHUNK_WARPS = CHUNK_THREADS / 32, WARP_TOKENS = CHUNK / CHUNK_WARPS;

struct ChunkArguments {
  float *y, *state;
  const float *q, *k, *v, *a, *b, *decay, *dt_bias; /* q to b: of token 0, head 0 */
  Recurrent r;
  i64 stride, a_stride, b_stride;
  i32 key_heads, value_heads, key_dim, value_dim, state_rows, blocks; /* blocks of columns in a head */
  bool tiled;
  __device__ __forceinline__ i32 key_head(i32 head) const { return tiled ? head % key_heads : head / (value_heads / key_heads); }
};

struct alignas(16) ChunkTokens {
  float k[CHUNK][KEY_ROW], q[CHUNK][KEY_ROW], v[CHUNK][CHUNK_COLUMNS];
};

/* Rows of such lengths that lanes have banks of their own. */
struct alignas(16) ChunkShared {
  ChunkTokens tokens[2];
  float products[2][2 * CHUNK][CHUNK_COLUMNS + 4]; /* [half][token of k, of q][column] */
  float gram[2 * CHUNK][CHUNK + 4];                /* [token of k, of q][m] */
  float of_keys[CHUNK][CHUNK];                     /* [m][token]: what the token's prediction takes of w_m */
  float of_queries[CHUNK][CHUNK];                  /* [token][m] */
  float left[CHUNK][CHUNK_COLUMNS];                /* v without what S predicts */
  float w[CHUNK][CHUNK_COLUMNS + 8];
  float squares[2][CHUNK]; /* k.k, q.q */
  float stored_sums[CHUNK];
  int2 runs[CHUNK_WARPS];
};

/* Where a chunk's tokens stand: token i is that of index `base` + i, of which those from `from` to `to` are in this call. */
struct ChunkPlace {
  i32 base, from, to;
};

template <bool WHOLE>
__device__ __forceinline__ void copy_piece(float* to, const float* from, i32 count, const float* any) {
  if constexpr (WHOLE) copy_async16(to, count > 0 ? from : any, count > 0);
  else
    for (i32 e = 0; e < 4; e++) to[e] = e < count ? from[e] : 0.0f;
}

/* Copies a chunk's tokens, zeros in the place of others; a warp has the tokens warp, warp + 4, ... */
template <bool WHOLE>
__device__ __forceinline__ void load_chunk(const ChunkArguments& p, ChunkTokens& to, const ChunkPlace& place, i32 key_head, i32 head, i32 column) {
  const i32 warp = threadIdx.x / 32, d = threadIdx.x % 32 * 4;
#pragma unroll
  for (int j = 0; j < WARP_TOKENS; j++) {
    const i32 i = warp + CHUNK_WARPS * j;
    const bool here = i >= place.from && i < place.to;
    const i64 row = here ? (place.base + i) * p.stride : 0, key_at = row + (i64)key_head * p.key_dim + d;
    const i32 keys = here ? p.key_dim - d : 0;
    copy_piece<WHOLE>(to.k[i] + d, p.k + key_at, keys, p.k);
    copy_piece<WHOLE>(to.q[i] + d, p.q + key_at, keys, p.k);
    if (d < CHUNK_COLUMNS) copy_piece<WHOLE>(to.v[i] + d, p.v + row + (i64)head * p.value_dim + column + d, here ? 4 : 0, p.k);
  }
  if constexpr (WHOLE) copy_async_commit();
}

/* k.k and q.q of the warp's tokens. */
__device__ __forceinline__ void square_tokens(const ChunkTokens& tokens, float (*squares)[CHUNK]) {
  const i32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float kk[WARP_TOKENS] = {}, qq[WARP_TOKENS] = {};
#pragma unroll
  for (int j = 0; j < WARP_TOKENS; j++)
#pragma unroll
    for (int r = 0; r < CHUNK_KEYS / 32; r++) {
      const float k = tokens.k[warp * WARP_TOKENS + j][lane + 32 * r], q = tokens.q[warp * WARP_TOKENS + j][lane + 32 * r];
      kk[j] = __fmaf_rn(k, k, kk[j]), qq[j] = __fmaf_rn(q, q, qq[j]);
    }
#pragma unroll
  for (int j = 0; j < WARP_TOKENS; j++) kk[j] = warp_sum(kk[j]), qq[j] = warp_sum(qq[j]);
#pragma unroll
  for (int j = 1; j < WARP_TOKENS; j++)
    if (lane == j) kk[0] = kk[j], qq[0] = qq[j];
  if (lane < WARP_TOKENS) squares[0][warp * WARP_TOKENS + lane] = kk[0], squares[1][warp * WARP_TOKENS + lane] = qq[0];
}

/* Eight tokens' elements of a tile of keys, as operand b: `of` is the first one's row at the tile's first key. */
__device__ __forceinline__ Parts<2> token_tile(const float* of) {
  const float2 pair = *(const float2*)(of + threadIdx.x % 32 / 4 * KEY_ROW + threadIdx.x % 4 * 2);
  return Parts<2>({pair.x, pair.y});
}

/* Products of the chunk's k (queries: q) with its k, by the warp for 8 of the 32 rows. */
__device__ __forceinline__ void multiply_keys(const ChunkTokens& tokens, ChunkShared& shared, i32 key_dim) {
  const i32 warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const float* of = warp < 2 ? tokens.k[8 * warp] : tokens.q[8 * warp - CHUNK];
  float sum[4] = {};
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const i32 tiles = half_tiles(key_dim, half);
    TileSum sums;
#pragma unroll
    for (int i = 0; i < HALF_TILES; i++)
      if (i < tiles) sums.add(key_tile(tokens.k, 64 * half + 8 * i), token_tile(of + 64 * half + 8 * i));
#pragma unroll
    for (int e = 0; e < 4; e++) sum[e] = half ? __fadd_rn(sum[e], sums[e]) : sums[e];
  }
#pragma unroll
  for (int e = 0; e < 4; e++) shared.gram[8 * warp + 2 * t + e % 2][g + 8 * (e / 2)] = sum[e];
}

/* Products of the chunk's k and q with the warp's part of S. */
__device__ __forceinline__ void multiply_state(const float (*s)[4], const ChunkTokens& tokens, ChunkShared& shared, i32 first_column, i32 half, i32 tiles) {
  const i32 g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  TileSum sums[4];
#pragma unroll
  for (int i = 0; i < HALF_TILES; i++) {
    if (i >= tiles) break;
    const Parts<4> a = state_tile(s[i]);
    const i32 key = 64 * half + 8 * i;
#pragma unroll
    for (int n = 0; n < 4; n++) sums[n].add(a, token_tile((n < 2 ? tokens.k[8 * n] : tokens.q[8 * n - CHUNK]) + key));
  }
#pragma unroll
  for (int n = 0; n < 4; n++)
#pragma unroll
    for (int j = 0; j < 2; j++) *(float2*)(shared.products[half][8 * n + 2 * t + j] + first_column + 2 * g) = make_float2(sums[n][j], sums[n][2 + j]);
}

/* G of the lane's token (lane % CHUNK), from its g and that of the last token before `from`. */
__device__ __forceinline__ float sum_decays(float g, float stored, i32 from) {
  const i32 i = threadIdx.x % CHUNK;
  float sum = from > 0 ? __shfl_sync(~0u, stored, from - 1) : 0.0f;
#pragma unroll
  for (int j = 0; j < CHUNK; j++) {
    const float one = __shfl_sync(~0u, g, j);
    if (j >= from && j <= i) sum = __fadd_rn(sum, one);
  }
  return i < from ? stored : sum;
}

/* What each token takes of the tokens before it: the warp's four tokens. */
__device__ __forceinline__ void share_tokens(ChunkShared& shared, const ChunkFactors& f) {
  const i32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, m = lane % CHUNK;
#pragma unroll
  for (int r = 0; r < WARP_TOKENS / 2; r++) {
    const i32 i = warp * WARP_TOKENS + 2 * r + lane / CHUNK;
    const float sum = __shfl_sync(~0u, f.sum, i), before = __shfl_sync(~0u, f.sum, m);
    const float k_scale = __shfl_sync(~0u, f.k_scale, i), q_scale = __shfl_sync(~0u, f.q_scale, i);
    shared.of_keys[m][i] = m < i ? chunk_share(k_scale, sum, before, shared.gram[i][m]) : 0.0f;
    shared.of_queries[i][m] = m <= i ? chunk_share(q_scale, sum, before, shared.gram[CHUNK + i][m]) : 0.0f;
  }
}

/* w of all tokens, a lane a column; those before `from` are there. */
__device__ __forceinline__ void solve_chunk(ChunkShared& shared, float write, i32 from) {
  const i32 lane = threadIdx.x % 32;
  float left[CHUNK];
#pragma unroll
  for (int i = 0; i < CHUNK; i++) left[i] = shared.left[i][lane];
#pragma unroll
  for (int m = 0; m < CHUNK; m++) {
    const float made = __fmul_rn(__shfl_sync(~0u, write, m), left[m]);
    const float w = m < from ? shared.w[m][lane] : made;
    shared.w[m][lane] = w;
#pragma unroll
    for (int i = m + 1; i < CHUNK; i++) left[i] = __fmaf_rn(-shared.of_keys[m][i], w, left[i]);
  }
}

template <bool WHOLE>
__global__ void __launch_bounds__(CHUNK_THREADS, 2) gated_delta_chunks_kernel(const __grid_constant__ ChunkArguments p) {
  PSI_DYNAMIC_SHARED(dynamic);
  ChunkShared& shared = *(ChunkShared*)dynamic;
  const i32 thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  const i32 head = blockIdx.x / p.blocks, block_column = blockIdx.x % p.blocks * CHUNK_COLUMNS, sequence = blockIdx.y;
  const i32 key_head = p.key_head(head), own_column = warp / 2 * 16, half = warp % 2, tiles = half_tiles(p.key_dim, half);
  const float decay = p.decay[head], dt_bias = p.dt_bias[head];
  let_next_start();
  wait_for_inputs();
  const int2 run = find_run<CHUNK_THREADS>(p.r, sequence, shared.runs);
  if (run.x >= run.y) return;
  const i32 slot = slot_of(p.r, sequence), position = slot < 0 ? 0 : p.r.position[run.x];
  const ChunkState state(p.state, (i64)max(slot, 0) * p.value_heads + head, p.state_rows, p.key_dim, p.value_dim);
  float* own_state = state.s + (i64)64 * half * p.value_dim + block_column + own_column;
  float s[HALF_TILES][4] = {};
  if (position >= CHUNK) {
#pragma unroll
    for (int i = 0; i < HALF_TILES; i++) move_tile<false>(s[i], own_state + (i64)8 * i * p.value_dim, p.value_dim, p.key_dim - 64 * half - 8 * i);
  }
  const i32 first_from = position % CHUNK;
  i32 base = run.x - first_from, buffer = 0;
  auto place_at = [&](i32 at) { return ChunkPlace{at, max(run.x - at, 0), min(run.y - at, CHUNK)}; };
  load_chunk<WHOLE>(p, shared.tokens[0], place_at(base), key_head, head, block_column);
  if (first_from > 0) {
    copy_async_wait<0>(); /* zeros where the tokens of before go */
    __syncthreads();
    for (i32 i = thread; i < first_from * p.key_dim; i += CHUNK_THREADS) shared.tokens[0].k[i / p.key_dim][i % p.key_dim] = state.k[i];
    for (i32 i = warp; i < first_from; i += CHUNK_WARPS) shared.w[i][lane] = state.w[(i64)i * p.value_dim + block_column + lane];
    if (thread < first_from) shared.stored_sums[thread] = state.sums[thread];
  }
  bool folded = false;
  for (; base < run.y; base += CHUNK, buffer ^= 1) {
    const ChunkPlace place = place_at(base);
    const ChunkTokens& tokens = shared.tokens[buffer];
    /* the raw gates of token lane % CHUNK */
    const i32 i = lane % CHUNK;
    const bool here = i >= place.from && i < place.to;
    const float a = here ? p.a[(place.base + i) * p.a_stride + head] : 0.0f, b = here ? p.b[(place.base + i) * p.b_stride + head] : 0.0f;
    copy_async_wait<0>();
    __syncthreads(); /* all have left the other buffer, too */
    if (base + CHUNK < run.y) load_chunk<WHOLE>(p, shared.tokens[buffer ^ 1], place_at(base + CHUNK), key_head, head, block_column);
    square_tokens(tokens, shared.squares);
    multiply_keys(tokens, shared, p.key_dim);
    multiply_state(s, tokens, shared, own_column, half, tiles);
    const float sum = sum_decays(here ? log_decay(a, dt_bias, decay) : 0.0f, i < place.from ? shared.stored_sums[i] : 0.0f, place.from);
    __syncthreads();
    const ChunkFactors f = chunk_factors(sum, b, shared.squares[0][i], shared.squares[1][i], p.key_dim);
    share_tokens(shared, f);
    float read[WARP_TOKENS];
#pragma unroll
    for (int j = 0; j < WARP_TOKENS; j++) {
      const i32 token = warp * WARP_TOKENS + j;
      const float predict = __shfl_sync(~0u, f.predict, token), scale = __shfl_sync(~0u, f.read, token);
      const float of_key = __fadd_rn(shared.products[0][token][lane], shared.products[1][token][lane]);
      const float of_query = __fadd_rn(shared.products[0][CHUNK + token][lane], shared.products[1][CHUNK + token][lane]);
      shared.left[token][lane] = __fmaf_rn(-predict, of_key, tokens.v[token][lane]);
      read[j] = __fmul_rn(scale, of_query);
    }
    __syncthreads();
    if (warp == 0) solve_chunk(shared, f.write, place.from);
    __syncthreads();
#pragma unroll
    for (int m = 0; m < CHUNK; m++) {
      const float w = shared.w[m][lane];
#pragma unroll
      for (int j = 0; j < WARP_TOKENS; j++)
        if (m <= warp * WARP_TOKENS + j) read[j] = __fmaf_rn(shared.of_queries[warp * WARP_TOKENS + j][m], w, read[j]);
    }
#pragma unroll
    for (int j = 0; j < WARP_TOKENS; j++) {
      const i32 token = warp * WARP_TOKENS + j;
      if (token >= place.from && token < place.to) p.y[((i64)(base + token) * p.value_heads + head) * p.value_dim + block_column + lane] = read[j];
    }
    if (place.to == CHUNK) {
      const ChunkEnd end(shared.w[0] + own_column, CHUNK_COLUMNS + 8, f.sum);
#pragma unroll
      for (int tile = 0; tile < HALF_TILES; tile++)
        if (tile < tiles) end.fold(s[tile], tokens.k[0] + 64 * half + 8 * tile);
      folded = true;
    } else if (slot >= 0) {
      for (i32 token = place.from + warp; token < place.to; token += CHUNK_WARPS) state.w[(i64)token * p.value_dim + block_column + lane] = shared.w[token][lane];
    }
  }
  if (!folded || slot < 0) return;
#pragma unroll
  for (int i = 0; i < HALF_TILES; i++) move_tile<true>(s[i], own_state + (i64)8 * i * p.value_dim, p.value_dim, p.key_dim - 64 * half - 8 * i);
}

/* k and G of tokens whose chunk is not at its end: a block a head of a sequence. */
__global__ void __launch_bounds__(CHUNK_THREADS) keep_chunk_kernel(const __grid_constant__ ChunkArguments p) {
  __shared__ int2 runs[CHUNK_WARPS];
  const i32 thread = threadIdx.x, lane = thread % 32, i = lane % CHUNK, head = blockIdx.x, sequence = blockIdx.y;
  const float decay = p.decay[head], dt_bias = p.dt_bias[head];
  let_next_start();
  wait_for_inputs();
  const int2 run = find_run<CHUNK_THREADS>(p.r, sequence, runs);
  const i32 slot = slot_of(p.r, sequence);
  if (run.x >= run.y || slot < 0) return;
  const i32 position = p.r.position[run.x], end = position + run.y - run.x, to = end % CHUNK;
  if (to == 0) return;
  const i32 base = run.y - to, from = max(run.x - base, 0);
  const ChunkState state(p.state, (i64)slot * p.value_heads + head, p.state_rows, p.key_dim, p.value_dim);
  const float* k = p.k + (i64)p.key_head(head) * p.key_dim;
  for (i32 at = from * p.key_dim + thread; at < to * p.key_dim; at += CHUNK_THREADS) state.k[at] = k[(base + at / p.key_dim) * p.stride + at % p.key_dim];
  if (thread >= 32) return;
  const bool here = i >= from && i < to;
  const float g = here ? log_decay(p.a[(base + i) * p.a_stride + head], dt_bias, decay) : 0.0f;
  const float sum = sum_decays(g, i < from ? state.sums[i] : 0.0f, from);
  if (here && lane < CHUNK) state.sums[i] = sum;
}

static bool fits(i64 offset, i64 width, i64 row) { return offset >= 0 && offset + width <= row; }

}  // namespace psi

PSI_API i32 psi_gated_delta_chunks(void* y, void* state, const void* qkv, const void* a, const void* b, const void* decay, const void* dt_bias, const void* token_sequence, const void* token_position, const void* sequence_slot, i32 tokens, i32 stride, i32 q_offset, i32 k_offset, i32 v_offset, i32 a_stride, i32 a_offset, i32 b_stride, i32 b_offset, i32 key_heads, i32 value_heads, i32 key_dim, i32 value_dim, i32 sequences, i32 slots, i32 tiled) {
  using namespace psi;
  const char* op = "psi_gated_delta_chunks";
  if (!y || !state || !qkv || !a || !b || !decay || !dt_bias) return fail(PSI_INVALID, "[%s] expected non-null pointers.", op);
  if (key_heads < 1 || value_heads < 1 || value_heads % key_heads) return fail(PSI_INVALID, "[%s] expected value heads in multiples of the key heads, got %d and %d.", op, value_heads, key_heads);
  if (key_dim < 4 || key_dim > CHUNK_KEYS || key_dim % 4 || value_dim < CHUNK_COLUMNS || value_dim % CHUNK_COLUMNS)
    return fail(PSI_UNSUPPORTED, "[%s] expected keys of 4 to %d in fours and values in %ds, got %d and %d.", op, CHUNK_KEYS, CHUNK_COLUMNS, key_dim, value_dim);
  const i64 keys = (i64)key_heads * key_dim;
  if (!fits(q_offset, keys, stride) || !fits(k_offset, keys, stride) || !fits(v_offset, (i64)value_heads * value_dim, stride))
    return fail(PSI_INVALID, "[%s] expected q, k and v inside rows of %d, got them at %d, %d and %d.", op, stride, q_offset, k_offset, v_offset);
  if (!fits(a_offset, value_heads, a_stride) || !fits(b_offset, value_heads, b_stride))
    return fail(PSI_INVALID, "[%s] expected %d gates inside rows of %d and %d, got them at %d and %d.", op, value_heads, a_stride, b_stride, a_offset, b_offset);
  if (tiled < 0 || tiled > 1) return fail(PSI_INVALID, "[%s] expected tiled 0 or 1, got %d.", op, tiled);
  if ((uintptr_t)state % 16) return fail(PSI_INVALID, "[%s] expected a state aligned to 16 bytes.", op);
  const Recurrent r = {(const i32*)token_sequence, (const i32*)token_position, (const i32*)sequence_slot, tokens, sequences, slots};
  PSI_TRY(check_recurrent(op, r));
  if (sequences > 65535) return fail(PSI_UNSUPPORTED, "[%s] expected at most 65535 sequences, got %d.", op, sequences);
  if (tokens == 0) return PSI_OK;
  const float* rows = (const float*)qkv;
  const ChunkArguments p = {(float*)y, (float*)state, rows + q_offset, rows + k_offset, rows + v_offset, (const float*)a + a_offset,
                            (const float*)b + b_offset, (const float*)decay, (const float*)dt_bias, r, stride, a_stride, b_stride, key_heads,
                            value_heads, key_dim, value_dim, chunk_state_rows(key_dim, value_dim), value_dim / CHUNK_COLUMNS, tiled != 0};
  const bool whole = ((stride | q_offset | k_offset | v_offset) % 4 | (uintptr_t)qkv % 16) == 0;
  const auto kernel = whole ? gated_delta_chunks_kernel<true> : gated_delta_chunks_kernel<false>;
  PSI_TRY(launch(op, kernel, dim3((u32)(value_heads * p.blocks), (u32)sequences), dim3(CHUNK_THREADS), sizeof(ChunkShared), p));
  return launch(op, keep_chunk_kernel, dim3((u32)value_heads, (u32)sequences), dim3(CHUNK_THREADS), 0, p);
}
