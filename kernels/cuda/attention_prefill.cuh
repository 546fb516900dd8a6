/* Attention of runs of tokens of one sequence: the kernel of runs (attention.h). */
#pragma once
#include "attention_tile.cuh"

namespace psi {

/*
 * A block has ROWS rows (token, head of a kv head), 16 a warp; SHARERS warps share rows, each with its part of the head.
 * Tiles come through a ring of BUFFERS in shared memory: keys, values, keys, ...
 */
template <int HEAD>
struct RunForm {
  static constexpr int SHARERS = HEAD <= 256 ? 1 : 2, ROWS = HEAD <= 128 ? 128 : HEAD <= 256 ? 64 : 32;
  static constexpr int WARPS = ROWS / 16 * SHARERS, THREADS = 32 * WARPS, PART = HEAD / SHARERS;
  static constexpr int BUFFERS = HEAD <= 128 ? 4 : HEAD <= 256 ? 2 : 1;
  static constexpr int TILE_BYTES = ATTENTION_TILE * HEAD * 2, QUERY_BYTES = ROWS * HEAD * 2;
  static constexpr int SHARED_BYTES = QUERY_BYTES + BUFFERS * TILE_BYTES;
  static constexpr int BLOCKS = HEAD <= 64 ? 2 : 1; /* of a multiprocessor at once: bounds the registers */
  static constexpr bool HELD = HEAD <= 96; /* queries stay in registers */
};

/* First token from `token` on, below `end`, that is of another sequence. */
__device__ __forceinline__ i32 run_end(const Attention& a, i32 token, i32 end, int lane) {
  const i32 sequence = a.token_sequence[token];
  for (i32 base = token + 1; base < end; base += 32) {
    const bool other = base + lane < end && a.token_sequence[base + lane] != sequence;
    if (const u32 mask = __ballot_sync(~0u, other)) return base + __ffs((int)mask) - 1;
  }
  return end;
}

/* Keys and values of the tiles of one run, in the order of their use. */
template <int OPERAND, int HEAD>
struct TileStream {
  using Form = RunForm<HEAD>;
  TileLoader<OPERAND, HEAD, Form::THREADS> loader;
  const i32* pages;
  u8* ring;
  i32 kv_head, first, steps, low, high, next;

  /* Begins the next copy, if one is left, and commits. */
  __device__ __forceinline__ void issue(const Attention& a) {
    if (next < steps) {
      if (next % 2 == 0) loader.place(a, pages, kv_head, first + next / 2, low, high, threadIdx.x);
      loader.load(a, buffer(next), next % 2 == 0 ? a.k_cache : a.v_cache, threadIdx.x);
    }
    copy_async_commit();
    next++;
  }
  __device__ __forceinline__ void begin(const Attention& a) {
    next = 0;
    for (int i = 0; i < Form::BUFFERS - 1; i++) issue(a);
  }
  /* Keys (even) or values (odd) number `step`; all threads come here together and in order. */
  __device__ __forceinline__ const u8* take(const Attention& a, i32 step) {
    if constexpr (Form::BUFFERS == 1) {
      __syncthreads();
      issue(a);
      copy_async_wait<0>();
      __syncthreads();
    } else {
      copy_async_wait<Form::BUFFERS - 2>();
      __syncthreads();
      issue(a);
    }
    return buffer(step);
  }
  __device__ __forceinline__ u8* buffer(i32 step) const { return ring + step % Form::BUFFERS * Form::TILE_BYTES; }
};

/* Tokens [begin, end), of one sequence. */
template <int OPERAND, int HEAD>
__device__ __forceinline__ void attend_run(const Attention& a, u8* shared, i32 begin, i32 end, i32 kv_head, i32 first_head, i32 count) {
  using Form = RunForm<HEAD>;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row0 = warp / Form::SHARERS * 16, part = warp % Form::SHARERS * Form::PART;
  const i32 rows = (end - begin) * count;

  TileStream<OPERAND, HEAD> stream;
  u32 high = 0, low = ~0u; /* high: last position + 1 */
  for (i32 t = begin + lane; t < end; t += 32) {
    const i32 position = position_of(a, t);
    if (position < 0) continue;
    high = max(high, (u32)position + 1), low = min(low, (u32)lowest_of(a, position));
  }
  stream.high = (i32)warp_max_u32(high) - 1, stream.low = (i32)(warp_min_u32(low) & 0x7fffffff);
  stream.pages = a.page_table + (i64)a.token_sequence[begin] * a.max_pages;
  stream.kv_head = kv_head, stream.ring = shared + Form::QUERY_BYTES;
  stream.first = stream.low / ATTENTION_TILE;
  stream.steps = stream.high < 0 ? 0 : 2 * (stream.high / ATTENTION_TILE - stream.first + 1);
  stream.begin(a);

  for (int i = threadIdx.x; i < Form::ROWS * (HEAD / 8); i += Form::THREADS) {
    const int r = i / (HEAD / 8), piece = i % (HEAD / 8);
    uint4 x = make_uint4(0, 0, 0, 0);
    if (r < rows && piece * 8 < a.head_dim)
      x = query_piece<OPERAND>(a.q + (begin + r / count) * a.q_stride + a.q_offset + (i64)(first_head + r % count) * a.head_dim + piece * 8,
                               a.aligned);
    *(uint4*)(shared + piece_at<HEAD>(r, piece)) = x;
  }
  __syncthreads();
  const QueriesShared<HEAD> in_shared = {shared, row0, lane};
  QueriesHeld<HEAD> held;
  if constexpr (Form::HELD) {
#pragma unroll
    for (int k = 0; k < HEAD / 16; k++) in_shared.fragment(k, held.a[k]);
  }

  /* What the lane's rows see; the warp's tiles are those that any of its rows sees. */
  i32 first[2], last[2];
  u32 warp_first = ~0u, warp_end = 0, all_first = 0, all_end = ~0u;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const i32 r = row0 + lane / 4 + half * 8;
    last[half] = r < rows ? position_of(a, begin + r / count) : -1;
    first[half] = lowest_of(a, last[half]);
    if (last[half] >= 0) warp_first = min(warp_first, (u32)first[half]);
    warp_end = max(warp_end, (u32)(last[half] + 1));
    all_first = max(all_first, (u32)first[half]), all_end = min(all_end, (u32)(last[half] + 1));
  }
  warp_first = warp_min_u32(warp_first), warp_end = warp_max_u32(warp_end);
  all_first = warp_max_u32(all_first), all_end = warp_min_u32(all_end);

  float M[2] = {-INFINITY, -INFINITY}, L[2] = {0, 0}, total[Form::PART / 8][4] = {};
  for (i32 step = 0; step < stream.steps; step += 2) {
    const i32 start = (stream.first + step / 2) * ATTENTION_TILE;
    const bool used = (u32)start < warp_end && (u32)start + ATTENTION_TILE > warp_first;
    const bool whole = (u32)start >= all_first && (u32)start + ATTENTION_TILE <= all_end;
    float old[2], now[2];
    bool sees[2];
    u32 w[4][4];
    const u8* keys = stream.take(a, step);
    if (used) {
      float s[8][4], m[2], l[2];
      if constexpr (Form::HELD) score_tile<OPERAND, HEAD>(s, held, keys, lane);
      else score_tile<OPERAND, HEAD>(s, in_shared, keys, lane);
      soften(a, s, first, last, start, whole, true, m, l, lane);
      pack_weights<OPERAND>(w, s);
#pragma unroll
      for (int half = 0; half < 2; half++) {
        sees[half] = start <= last[half] && start + ATTENTION_TILE > first[half];
        if (!sees[half]) continue;
        fold_factors(M[half], m[half], old[half], now[half]);
        L[half] = folded(L[half], old[half], l[half], now[half]);
      }
    }
    const u8* values = stream.take(a, step + 1);
    if (!used) continue;
#pragma unroll
    for (int d = 0; d < Form::PART; d += 32) {
      float acc[4][4];
      weigh<OPERAND, HEAD>(acc, w, values, part + d, lane, AllValues());
      if (!whole) repair<OPERAND, HEAD>(acc, w, values, part + d, lane, first, last, start);
#pragma unroll
      for (int half = 0; half < 2; half++) {
        if (!sees[half]) continue;
#pragma unroll
        for (int n = 0; n < 4; n++)
#pragma unroll
          for (int j = 0; j < 2; j++) {
            float& x = total[d / 8 + n][half * 2 + j];
            x = folded(x, old[half], acc[n][half * 2 + j], now[half]);
          }
      }
    }
  }

#pragma unroll
  for (int half = 0; half < 2; half++) {
    const i32 r = row0 + lane / 4 + half * 8;
    if (r >= rows) continue;
    const i32 head = first_head + r % count;
    const float scale = finish(a, head, M[half], L[half]);
    float* y = a.y + ((i64)(begin + r / count) * a.heads + head) * a.head_dim;
#pragma unroll
    for (int n = 0; n < Form::PART / 8; n++) {
      const int d = part + n * 8 + lane % 4 * 2;
      if (d < a.head_dim) *(float2*)(y + d) = make_float2(total[n][half * 2] * scale, total[n][half * 2 + 1] * scale);
    }
  }
}

/* A block per `a.block` tokens, the last ones first as they have most to do, and per part (kv head, piece of its group). */
template <int OPERAND, int HEAD>
__global__ void __launch_bounds__(RunForm<HEAD>::THREADS, RunForm<HEAD>::BLOCKS) attention_runs(const Attention a) {
  let_next_start();
  wait_for_inputs();
  PSI_DYNAMIC_SHARED(shared);
  const i32 pieces = PSI_DIVIDE_UP(a.group, RunForm<HEAD>::ROWS), most = PSI_DIVIDE_UP(a.group, pieces);
  const i32 kv_head = blockIdx.y / pieces, piece = blockIdx.y % pieces;
  const i32 begin = (i32)(gridDim.x - 1 - blockIdx.x) * a.block, end = min(begin + a.block, a.tokens);
  for (i32 token = begin; token < end;) {
    const i32 stop = run_end(a, token, end, threadIdx.x % 32);
    if (stop - token >= a.run) {
      attend_run<OPERAND, HEAD>(a, shared, token, stop, kv_head, kv_head * a.group + piece * most, min(most, a.group - piece * most));
      __syncthreads();
    }
    token = stop;
  }
}

}  // namespace psi
