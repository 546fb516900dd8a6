/* Attention token by token: the split kernel and the direct one (attention.h). */
#pragma once
#include "attention_tile.cuh"

namespace psi {

/*
 * A team of warps takes a tile. Where it is one warp, that has the queries in registers. Where it is several, the queries lie in shared
 * memory, each warp scores its share of the tile's positions, all learn all scores through shared memory, and each weighs its
 * part of the head.
 */
template <int HEAD>
struct DecodeForm {
  static constexpr int SHARERS = HEAD <= 128 ? 1 : HEAD == 192 ? 2 : HEAD <= 256 ? 4 : 8, TEAMS = HEAD <= 64 ? 4 : HEAD <= 128 ? 2 : 1;
  static constexpr int THREADS = 32 * SHARERS * TEAMS, PART = HEAD / SHARERS;
  static constexpr int TILE_BYTES = ATTENTION_TILE * HEAD * 2;
  static constexpr int SCORE_STRIDE = ATTENTION_TILE + 8; /* 8 more, against bank conflicts */
  /* Where the team shares them, `held` rows of queries and of scores lie behind the tiles. */
  static constexpr __host__ __device__ int team_bytes(int held) { return 2 * TILE_BYTES + (SHARERS > 1 ? held * (HEAD * 2 + SCORE_STRIDE * 4) : 0); }
  static constexpr __host__ __device__ int split_bytes(int held) { return TEAMS * team_bytes(held); }
  /* A team's result in shared memory: 16 rows apart by 8 more, against bank conflicts, then m and l of 16 rows. */
  static constexpr int PARTIAL_STRIDE = HEAD + 8, PARTIAL_FLOATS = 16 * PARTIAL_STRIDE + 32;
  static constexpr int DIRECT_BYTES = split_bytes(16) + TEAMS * PARTIAL_FLOATS * 4;
};

/* Up to so many tokens it is found out what may be read ahead. */
constexpr i32 MOST_TOKENS_AHEAD = 64;

/* The heads of a group are cut into pieces of at most 16 rows. */
__host__ __device__ __forceinline__ i32 decode_pieces(i32 group) { return PSI_DIVIDE_UP(group, 16); }

/* Rows that a team of several warps holds: with 8 three blocks of 256 elements a head are on a multiprocessor. */
__host__ __device__ __forceinline__ i32 decode_held(i32 group) { return PSI_DIVIDE_UP(group, decode_pieces(group)) <= 8 ? 8 : 16; }

/* The rows of a (token, kv head, piece of its group): one per head. */
struct DecodeRows {
  const i32* pages;
  i32 token, position, lowest, kv_head, first_head, count;
};
__device__ __forceinline__ DecodeRows decode_rows(const Attention& a, i32 token, i32 part) {
  const i32 pieces = decode_pieces(a.group), most = PSI_DIVIDE_UP(a.group, pieces), piece = part % pieces;
  DecodeRows r;
  r.token = token, r.position = position_of(a, token), r.lowest = lowest_of(a, r.position);
  r.kv_head = part / pieces;
  r.first_head = r.kv_head * a.group + piece * most;
  r.count = min(most, a.group - piece * most);
  r.pages = a.page_table + (i64)a.token_sequence[token] * a.max_pages;
  return r;
}

/* Whether a tile lies before all that this step writes for the tokens of the call, so that it may be read before its inputs are there. */
__device__ __forceinline__ bool is_old(const Attention& a, i32 token, i32 tile) {
  const i32 end = (tile + 1) * ATTENTION_TILE, sequence = a.token_sequence[token];
  if (a.tokens > MOST_TOKENS_AHEAD) return false;
  bool touched = false;
  for (i32 t = threadIdx.x % 32; t < a.tokens; t += 32) touched |= a.token_sequence[t] == sequence && a.token_position[t] < end;
  return !__any_sync(~0u, touched);
}

template <int OPERAND, int HEAD>
struct DecodeTeam {
  using Form = DecodeForm<HEAD>;
  static constexpr int THREADS = 32 * Form::SHARERS; /* of the team */
  u8 *keys, *values, *rows; /* rows: of queries, where the team shares them */
  float* scores;
  int lane, thread, part, held; /* thread of the team; first head element of this warp; rows of a team of several warps */
  TileLoader<OPERAND, HEAD, THREADS> loader;
  QueriesHeld<HEAD> queries; /* where the team is one warp */

  __device__ __forceinline__ DecodeTeam(u8* shared, int held) : held(held) {
    const int team = threadIdx.x / THREADS;
    thread = threadIdx.x % THREADS, lane = threadIdx.x % 32, part = thread / 32 * Form::PART;
    keys = shared + team * Form::team_bytes(held);
    values = keys + Form::TILE_BYTES, rows = values + Form::TILE_BYTES;
    scores = (float*)(rows + held * HEAD * 2);
  }
  static __device__ __forceinline__ void barrier() {
    if constexpr (Form::SHARERS == 1) __syncwarp();
    else __syncthreads();
  }

  /* Where the team shares them, all see them after the next barrier. */
  __device__ __forceinline__ void read_queries(const Attention& a, const DecodeRows& r) {
    if constexpr (Form::SHARERS > 1) read_shared(a, r);
    else read_held(a, r);
  }

  /* Looks up where the first of a series of tiles lies, then begins with it. */
  __device__ __forceinline__ void place(const Attention& a, const DecodeRows& r, i32 tile) {
    loader.place(a, r.pages, r.kv_head, tile, r.lowest, r.position, thread);
  }
  __device__ __forceinline__ void start(const Attention& a) {
    loader.load(a, keys, a.k_cache, thread);
    copy_async_commit();
    fetch_values(a);
  }

  /*
   * Computes `tile` and, when `more`, fetches next_tile of `next` meanwhile. m and l of the lane's rows; the weighted sums
   * go to emit(d, acc), 32 head elements at a time.
   */
  template <class Emit>
  __device__ __forceinline__ void run(const Attention& a, const DecodeRows& r, i32 tile, bool more, const DecodeRows& next, i32 next_tile,
                                      float* m, float* l, Emit&& emit) {
    copy_async_wait<1>();
    barrier();
    float s[8][4];
    if constexpr (Form::SHARERS == 1) score_tile<OPERAND, HEAD>(s, queries, keys, lane);
    else score_share();
    barrier();
    if (more) fetch_keys(a, next, next_tile);
    else copy_async_commit();
    if constexpr (Form::SHARERS > 1) {
#pragma unroll
      for (int n = 0; n < 8; n++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const float* at = scores + (lane / 4 + half * 8) * Form::SCORE_STRIDE + n * 8 + lane % 4 * 2;
          const float2 x = half * 8 < held ? *(const float2*)at : make_float2(0, 0);
          s[n][half * 2] = x.x, s[n][half * 2 + 1] = x.y;
        }
    }
    const i32 start = tile * ATTENTION_TILE, first[2] = {r.lowest, r.lowest}, last[2] = {r.position, r.position};
    const bool whole = start >= r.lowest && start + ATTENTION_TILE - 1 <= r.position;
    soften(a, s, first, last, start, whole, r.count > 8, m, l, lane);
    u32 w[4][4];
    pack_weights<OPERAND>(w, s);
    copy_async_wait<1>();
    barrier();
#pragma unroll 1
    for (int d = 0; d < Form::PART; d += 32) {
      float acc[4][4];
      weigh<OPERAND, HEAD>(acc, w, values, part + d, lane, AllValues());
      emit(part + d, acc);
    }
    barrier();
    if (more) fetch_values(a);
    else copy_async_commit();
  }

 private:
  /* What lies outside is read at a place inside and then made zero: without a branch all reads are under way at once. */
  __device__ __forceinline__ void read_shared(const Attention& a, const DecodeRows& r) {
#pragma unroll 2
    for (int i = thread; i < held * (HEAD / 8); i += THREADS) {
      const int row = i / (HEAD / 8), piece = i % (HEAD / 8);
      const bool valid = row < r.count && piece * 8 < a.head_dim;
      const float* q = a.q + r.token * a.q_stride + a.q_offset + (i64)(r.first_head + min(row, r.count - 1)) * a.head_dim;
      const uint4 x = query_piece<OPERAND>(q + (valid ? piece * 8 : 0), a.aligned);
      *(uint4*)(rows + piece_at<HEAD>(row, piece)) = valid ? x : make_uint4(0, 0, 0, 0);
    }
  }
  __device__ __forceinline__ void read_held(const Attention& a, const DecodeRows& r) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const i32 row = lane / 4 + half * 8;
      const float* q = a.q + r.token * a.q_stride + a.q_offset + (i64)(r.first_head + min(row, r.count - 1)) * a.head_dim + lane % 4 * 2;
      if (half == 1 && r.count <= 8) {
#pragma unroll
        for (int k = 0; k < HEAD / 16; k++) queries.a[k][1] = queries.a[k][3] = 0;
      } else if (a.aligned) {
        read_half(a, q, row < r.count, half, [](const float* at) { return *(const float2*)at; });
      } else {
        read_half(a, q, row < r.count, half, [](const float* at) { return make_float2(at[0], at[1]); });
      }
    }
  }
  /* Products of the rows with this warp's share of the positions, as score_tile has them, to `scores`. */
  __device__ __forceinline__ void score_share() {
    constexpr int BLOCKS = 8 / Form::SHARERS; /* of 8 positions */
    const int first = thread / 32 * BLOCKS;
    const int own = (lane / 8 % 2 * 8 + lane % 8) & (held - 1); /* as in QueriesShared; rows 8 and more are not used where 8 are held */
    float s[BLOCKS][4];
#pragma unroll
    for (int n = 0; n < BLOCKS; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) s[n][i] = 0;
#pragma unroll 2
    for (int k = 0; k < HEAD / 16; k += 2) {
      u32 q[2][4], b[BLOCKS][4]; /* of 8 positions: two k-steps */
#pragma unroll
      for (int i = 0; i < 2; i++) load_matrix_x4(q[i], rows + piece_at<HEAD>(own, 2 * (k + i) + lane / 16));
#pragma unroll
      for (int n = 0; n < BLOCKS; n++) load_matrix_x4(b[n], keys + piece_at<HEAD>((first + n) * 8 + lane % 8, 2 * k + lane / 8));
#pragma unroll
      for (int i = 0; i < 2; i++)
#pragma unroll
        for (int n = 0; n < BLOCKS; n++) multiply<OPERAND>(s[n], q[i], b[n] + 2 * i);
    }
    const int g = lane / 4, t = lane % 4;
#pragma unroll
    for (int n = 0; n < BLOCKS; n++) {
      float* at = scores + g * Form::SCORE_STRIDE + (first + n) * 8 + t * 2;
      *(float2*)at = make_float2(s[n][0], s[n][1]);
      if (held > 8) *(float2*)(at + 8 * Form::SCORE_STRIDE) = make_float2(s[n][2], s[n][3]);
    }
  }
  template <class Read>
  __device__ __forceinline__ void read_half(const Attention& a, const float* q, bool here, int half, Read read) {
    constexpr int STEPS = HEAD / 16, AT_ONCE = STEPS % 4 == 0 ? 4 : 6;
    static_assert(STEPS % AT_ONCE == 0, "whole batches");
#pragma unroll
    for (int first = 0; first < STEPS; first += AT_ONCE) {
      float2 x[AT_ONCE][2];
#pragma unroll
      for (int k = 0; k < AT_ONCE; k++) {
        const float* at = q + ((first + k) * 16 < a.head_dim ? (first + k) * 16 : 0);
        x[k][0] = read(at), x[k][1] = read(at + 8);
      }
#pragma unroll
      for (int k = 0; k < AT_ONCE; k++) {
        const bool valid = here && (first + k) * 16 < a.head_dim;
        queries.a[first + k][half] = valid ? pack_operand<OPERAND>(x[k][0].x, x[k][0].y) : 0;
        queries.a[first + k][half + 2] = valid ? pack_operand<OPERAND>(x[k][1].x, x[k][1].y) : 0;
      }
    }
  }
  __device__ __forceinline__ void fetch_keys(const Attention& a, const DecodeRows& r, i32 tile) {
    place(a, r, tile);
    loader.load(a, keys, a.k_cache, thread);
    copy_async_commit();
  }
  __device__ __forceinline__ void fetch_values(const Attention& a) {
    loader.load(a, values, a.v_cache, thread);
    copy_async_commit();
  }
};

/* Tiles of a token: from `first` on. */
__device__ __forceinline__ i32 tiles_of(const Attention& a, i32 position, i32& first) {
  first = lowest_of(a, position) / ATTENTION_TILE;
  return position < 0 ? 0 : position / ATTENTION_TILE - first + 1;
}

/*
 * All tiles of all tokens and kv heads in a row, of which each team of the grid takes an equal share: the grid need not
 * know how long the sequences are.
 */
template <int OPERAND, int HEAD>
__global__ void __launch_bounds__(DecodeForm<HEAD>::THREADS) attention_split(const Attention a) {
  using Form = DecodeForm<HEAD>;
  let_next_start();
  PSI_DYNAMIC_SHARED(shared);
  DecodeTeam<OPERAND, HEAD> team(shared, decode_held(a.group));
  const i32 parts = a.kv_heads * decode_pieces(a.group);
  /* each lane knows the tiles of a token; the launcher sees to it that all together are fewer than 2^31 */
  i32 own_first = 0, own_count = 0;
  if (team.lane < a.tokens) own_count = tiles_of(a, position_of(a, team.lane), own_first);
  i32 all = own_count;
#pragma unroll
  for (int o = 16; o > 0; o /= 2) all += __shfl_xor_sync(~0u, all, o);
  all *= parts;
  /* teams are numbered such that the first few are of different blocks */
  const i32 worker = threadIdx.x / (32 * Form::SHARERS) * gridDim.x + blockIdx.x, workers = gridDim.x * Form::TEAMS;
  const i32 share = all / workers, extra = all % workers;
  const i32 begin = worker * share + min(worker, extra), end = begin + share + (worker < extra ? 1 : 0);
  if (begin >= end) {
    wait_for_inputs();
    return;
  }

  i32 token = 0, count = __shfl_sync(~0u, own_count, 0);
  i32 before = begin; /* items of the token before the one at hand */
  while (before >= count * parts) {
    before -= count * parts;
    count = __shfl_sync(~0u, own_count, ++token);
  }
  i32 first = __shfl_sync(~0u, own_first, token), part = before / count, tile = first + before % count;
  DecodeRows rows = decode_rows(a, token, part);
  const bool ahead = is_old(a, token, tile);
  team.place(a, rows, tile);
  if (!ahead) wait_for_inputs();
  team.start(a);
  wait_for_inputs();
  bool turn = true; /* the tile is of other rows than the one before */
#pragma unroll 1
  for (i32 item = begin; item < end; item++) {
    if (turn) team.read_queries(a, rows);
    turn = false;
    const bool more = item + 1 < end;
    const i32 row_first = first;
    DecodeRows next = rows;
    i32 next_tile = tile + 1;
    if (more && next_tile == first + count) {
      turn = true;
      if (++part == parts) {
        part = 0;
        do count = __shfl_sync(~0u, own_count, ++token);
        while (count == 0);
        first = __shfl_sync(~0u, own_first, token);
      }
      next = decode_rows(a, token, part);
      next_tile = first;
    }
    const int g = team.lane / 4, t = team.lane % 4;
    const i64 record = ((i64)rows.token * a.heads + rows.first_head + g) * a.tiles + tile - row_first, lower = record + (i64)8 * a.tiles;
    const bool here = g < rows.count, below = g + 8 < rows.count;
    float m[2], l[2];
    team.run(a, rows, tile, more, next, next_tile, m, l, [&](int d, float(&acc)[4][4]) {
#pragma unroll
      for (int n = 0; n < 4; n++) {
        const int at = d + n * 8 + t * 2;
        if (at >= a.head_dim) continue;
        if (here) *(float2*)(a.partial + record * a.head_dim + at) = make_float2(acc[n][0], acc[n][1]);
        if (below) *(float2*)(a.partial + lower * a.head_dim + at) = make_float2(acc[n][2], acc[n][3]);
      }
    });
    if (t == 0 && team.part == 0) {
      if (here) *(float2*)(a.partial_sums + record * 2) = make_float2(m[0], l[0]);
      if (below) *(float2*)(a.partial_sums + lower * 2) = make_float2(m[1], l[1]);
    }
    rows = next, tile = next_tile;
  }
}

/* Whether a token's run within its block of tokens (attention.h) is too short for the kernel of runs. */
__device__ __forceinline__ bool is_alone(const Attention& a, i32 token, int lane) {
  if (a.run > a.tokens) return true;
  const i32 reach = a.run - 1; /* below 16 */
  const i32 begin = token / a.block * a.block, end = min(begin + a.block, a.tokens), other = token - reach + lane;
  const bool same = lane <= 2 * reach && other >= begin && other < end && a.token_sequence[other] == a.token_sequence[token];
  const u32 mask = __ballot_sync(~0u, same);
  const u32 after = ~(mask >> reach), before = ~(mask << (31 - reach));
  return __ffs((int)after) - 1 + __clz((int)before) - 1 < a.run;
}

/* A block per part (kv head and piece) and `each` tokens: the teams take tiles side by side, then all threads fold them. */
template <int OPERAND, int HEAD>
__global__ void __launch_bounds__(DecodeForm<HEAD>::THREADS) attention_direct(const Attention a, i32 each) {
  using Form = DecodeForm<HEAD>;
  constexpr int ROW_THREADS = Form::THREADS / 16, VECTORS = HEAD / 4 / ROW_THREADS;
  static_assert(HEAD / 4 % ROW_THREADS == 0, "threads that divide a row");
  let_next_start();
  PSI_DYNAMIC_SHARED(shared);
  DecodeTeam<OPERAND, HEAD> team(shared, 16);
  float* partials = (float*)(shared + Form::split_bytes(16));
  const int own = threadIdx.x / (32 * Form::SHARERS), g = team.lane / 4, t = team.lane % 4;
  float* mine = partials + own * Form::PARTIAL_FLOATS;
  const int row = threadIdx.x / ROW_THREADS, column = threadIdx.x % ROW_THREADS * 4; /* what this thread folds */

  const i32 stop = min((i32)(blockIdx.y + 1) * each, a.tokens);
  bool waited = false;
  for (i32 token = blockIdx.y * each; token < stop; token++) {
    if (!is_alone(a, token, team.lane)) continue;
    const DecodeRows rows = decode_rows(a, token, blockIdx.x);
    i32 first;
    const i32 end = tiles_of(a, rows.position, first) + first;
    float M = -INFINITY, L = 0, total[VECTORS][4] = {};
    const bool some = first + own < end, ahead = some && !waited && is_old(a, token, first + own);
    if (some) team.place(a, rows, first + own);
    if (!waited && !ahead) wait_for_inputs();
    if (some) team.start(a);
    if (!waited) wait_for_inputs();
    waited = true;
    team.read_queries(a, rows);
    for (i32 round = first; round < end; round += Form::TEAMS) {
      const i32 tile = round + own;
      if (tile < end) {
        float m[2], l[2];
        team.run(a, rows, tile, tile + Form::TEAMS < end, rows, tile + Form::TEAMS, m, l, [&](int d, float(&acc)[4][4]) {
#pragma unroll
          for (int n = 0; n < 4; n++) {
            float* at = mine + g * Form::PARTIAL_STRIDE + d + n * 8 + t * 2;
            *(float2*)at = make_float2(acc[n][0], acc[n][1]);
            if (rows.count > 8) *(float2*)(at + 8 * Form::PARTIAL_STRIDE) = make_float2(acc[n][2], acc[n][3]);
          }
        });
        if (t == 0 && team.part == 0) {
          float* sums = mine + 16 * Form::PARTIAL_STRIDE;
          sums[g] = m[0], sums[g + 8] = m[1], sums[g + 16] = l[0], sums[g + 24] = l[1];
        }
      }
      __syncthreads();
      if (row < rows.count)
        for (i32 i = 0; i < Form::TEAMS && round + i < end; i++) {
          const float* part = partials + i * Form::PARTIAL_FLOATS;
          float old, now;
          fold_factors(M, part[16 * Form::PARTIAL_STRIDE + row], old, now);
          L = folded(L, old, part[16 * Form::PARTIAL_STRIDE + 16 + row], now);
#pragma unroll
          for (int v = 0; v < VECTORS; v++) {
            const float4 x = *(const float4*)(part + row * Form::PARTIAL_STRIDE + column + v * 4 * ROW_THREADS);
            total[v][0] = folded(total[v][0], old, x.x, now), total[v][1] = folded(total[v][1], old, x.y, now);
            total[v][2] = folded(total[v][2], old, x.z, now), total[v][3] = folded(total[v][3], old, x.w, now);
          }
        }
      __syncthreads();
    }
    if (row >= rows.count) continue;
    const i32 head = rows.first_head + row;
    const float scale = finish(a, head, M, L);
    float* y = a.y + ((i64)token * a.heads + head) * a.head_dim;
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
      const int d = column + v * 4 * ROW_THREADS;
      if (d < a.head_dim)
        *(float4*)(y + d) = make_float4(total[v][0] * scale, total[v][1] * scale, total[v][2] * scale, total[v][3] * scale);
    }
  }
  if (!waited) wait_for_inputs();
}

}  // namespace psi
