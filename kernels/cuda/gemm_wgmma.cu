/*
 * C (+)= A' B' (+ bias) on Hopper from bf16 in either transposition each. A block per multiprocessor stays and makes tiles
 * of 128 x 256: one thread keeps three stages of 64 ks on their way by tensor copies, two warpgroups multiply 64 x 256 each
 * by wgmma from shared memory, f32 sums in registers. Results in bf16 leave through shared memory by tensor copies, and what
 * they are added to comes that way while the tile is made; other results are stored from registers. Tiles of 16 rows of tiles follow one another, so that both sides stay
 * in L2. Where tiles are too few for the machine, k is cut into parts by the shape alone, whose sums a second kernel adds in
 * order. Source of the scheme: the persistent warp-specialised kernels that CUTLASS describes for Hopper.
 *
 * By an H100's data sheet, not measured: 128 x 256 x 64 takes 1024 cycles and 48 KiB from L2, so tensor cores and L2 are
 * about balanced.
 */
#include "gemm.h"
#include "tensor_copy.h"

namespace psi {

constexpr int WIDE_ROWS = 128, WIDE_COLUMNS = 256, WIDE_K = 64, WIDE_STAGES = 3, WIDE_THREADS = 384, WIDE_GROUP = 16;
constexpr u32 WIDE_A = WIDE_ROWS * BOX_LINE, WIDE_B = WIDE_COLUMNS * BOX_LINE, WIDE_STAGE = WIDE_A + WIDE_B, BOX_BLOCK = 64 * BOX_LINE;
constexpr int WIDE_WARPS = 8; /* that multiply */
constexpr u32 OUT_BOX = 16 * BOX_LINE, OUT_WARP = WIDE_COLUMNS / 64 * OUT_BOX, BIAS_WARP = WIDE_COLUMNS * sizeof(float);
constexpr size_t WIDE_OUT = WIDE_STAGES * WIDE_STAGE, WIDE_BIAS = WIDE_OUT + WIDE_WARPS * OUT_WARP, WIDE_ARRIVALS = WIDE_BIAS + WIDE_WARPS * BIAS_WARP;
constexpr size_t WIDE_SHARED = WIDE_ARRIVALS + (2 * WIDE_STAGES + WIDE_WARPS) * sizeof(u64);
static_assert(BOX_BLOCK % 1024 == 0 && WIDE_STAGE % 1024 == 0, "boxes lie at multiples of 1024 bytes");
constexpr int WIDE_PROCESSORS = 132; /* what work is cut for, so that its sums do not depend on the device */

struct WidePlan {
  i32 tiles_m, tiles_n, splits, units, items;
  float* parts; /* [split][batch][m][n] where splits > 1 */
  bool boxes;   /* results leave by tensor copies */
};

struct WideItem {
  i32 row, column, matrix, split, unit, unit_end;
};

__device__ __forceinline__ WideItem wide_item(const WidePlan& p, i32 id) {
  WideItem w;
  const i32 tiles = p.tiles_m * p.tiles_n, tile = id % tiles, rest = id / tiles;
  w.split = rest % p.splits, w.matrix = rest / p.splits;
  const i32 group = tile / (WIDE_GROUP * p.tiles_n), first = group * WIDE_GROUP, high = min(WIDE_GROUP, p.tiles_m - first), at = tile - first * p.tiles_n;
  w.row = (first + at % high) * WIDE_ROWS, w.column = at / high * WIDE_COLUMNS;
  w.unit = (i32)((i64)p.units * w.split / p.splits), w.unit_end = (i32)((i64)p.units * (w.split + 1) / p.splits);
  return w;
}

/* How a product's results are stored. */
struct WideStore {
  bool parts; /* sums of a part of k, f32 [split][matrix][m][n] */
  bool pairs; /* two neighbours of a row at a time */
};

__device__ __forceinline__ WideStore wide_store(const Gemm& g, const WidePlan& p) {
  WideStore s;
  s.parts = p.splits > 1;
  const bool even = g.c_pitch % 2 == 0 && g.c_batch % 2 == 0 && (u64)g.c.p % 8 == 0;
  s.pairs = (s.parts ? g.n % 2 == 0 : even) && (!g.bias || (u64)g.bias % 8 == 0);
  return s;
}

constexpr int STORE_FRAGMENTS = 8; /* of columns at a time: what is read for them comes together */

/* Whole pairs of a row from its 64 columns at `at`; all lanes of a warp take part, those `there` store. */
__device__ __forceinline__ void store_row_part(const Gemm& g, const WidePlan& p, const WideStore& s, i64 at, bool there, int t, float2* v) {
  if (g.add && !s.parts) {
    float2 before[STORE_FRAGMENTS];
#pragma unroll
    for (int i = 0; i < STORE_FRAGMENTS; i++) {
      const i64 place = at + 8 * i + 2 * t;
      if (!there) before[i] = make_float2(0, 0);
      else if (g.c.half) {
        const u32 pair = *(const u32*)((const u16*)g.c.p + place);
        before[i] = make_float2(bf16_low(pair), bf16_high(pair));
      } else before[i] = *(const float2*)((const float*)g.c.p + place);
    }
#pragma unroll
    for (int i = 0; i < STORE_FRAGMENTS; i++) v[i] = make_float2(before[i].x + v[i].x, before[i].y + v[i].y);
  }
  if (!there) return;
  float* c = s.parts ? p.parts : (float*)g.c.p;
#pragma unroll
  for (int i = 0; i < STORE_FRAGMENTS; i++) {
    const i64 place = at + 8 * i + 2 * t;
    if (g.c.half && !s.parts) *(u32*)((u16*)g.c.p + place) = pack_bf16(v[i].x, v[i].y);
    else *(float2*)(c + place) = v[i];
  }
}

/* One element, where a tile meets the matrix's edge or rows are odd. */
__device__ __forceinline__ void store_one(const Gemm& g, const WidePlan& p, const WideStore& s, i64 line, i32 column, float v) {
  if (column >= g.n) return;
  if (s.parts) {
    p.parts[line + column] = v;
    return;
  }
  if (g.bias) v += g.bias[column];
  if (g.add) v += g.c.in().at(line + column);
  g.c.put(line + column, v);
}

/* A warp's 16 x 256 of a tile. */
__device__ __forceinline__ void store_wide(const Gemm& g, const WidePlan& p, const WideItem& w, const float (&sum)[128], int warp, int lane) {
  const int t = lane % 4;
  const WideStore s = wide_store(g, p);
#pragma unroll
  for (int j = 0; j < 32; j += STORE_FRAGMENTS) {
    const i32 column = w.column + 8 * j;
    if (column >= g.n) break;
    const bool whole = s.pairs && column + 8 * STORE_FRAGMENTS <= g.n;
    float2 bias[STORE_FRAGMENTS];
#pragma unroll
    for (int i = 0; i < STORE_FRAGMENTS; i++)
      bias[i] = whole && g.bias && !s.parts ? __ldg((const float2*)(g.bias + column + 8 * i + 2 * t)) : make_float2(0, 0);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const i32 row = w.row + warp * 16 + lane / 4 + 8 * half;
      const i64 line = s.parts ? ((i64)(w.split * g.batch + w.matrix) * g.m + row) * g.n : w.matrix * g.c_batch + row * g.c_pitch;
      if (whole) {
        float2 v[STORE_FRAGMENTS];
#pragma unroll
        for (int i = 0; i < STORE_FRAGMENTS; i++)
          v[i] = make_float2(sum[4 * (j + i) + 2 * half] + bias[i].x, sum[4 * (j + i) + 2 * half + 1] + bias[i].y);
        store_row_part(g, p, s, line + column, row < g.m, t, v);
      } else if (row < g.m) {
#pragma unroll
        for (int i = 0; i < STORE_FRAGMENTS; i++)
#pragma unroll
          for (int e = 0; e < 2; e++) store_one(g, p, s, line, column + 8 * i + 2 * t + e, sum[4 * (j + i) + 2 * half + e]);
      }
    }
  }
}

#if defined(PSI_WGMMA)
/* What a warp of the multiplying ones has in shared memory for its 16 x 256 of a tile. */
struct WideOut {
  u8* boxes; /* [4 times 64 columns][16 lines] */
  float* bias;
  u64* arrival; /* of what is added to */
};

/* Before a tile is made: its bias to registers, and what it is added to on its way. */
__device__ __forceinline__ void begin_out(const Gemm& g, const TensorMap& map_c, const WideOut& o, const WideItem& w, i32 row, int lane, float (&bias)[8]) {
  if (g.bias) {
    const i32 column = w.column + 8 * lane;
    const bool whole = column + 8 <= g.n && (uintptr_t)g.bias % 16 == 0;
#pragma unroll
    for (int i = 0; i < 8; i += 4) {
      const float4 v = some4({g.bias, false}, column + i, g.n - column - i, whole);
      bias[i] = v.x, bias[i + 1] = v.y, bias[i + 2] = v.z, bias[i + 3] = v.w;
    }
  }
  if (!g.add || lane != 0) return;
  tensor_store_wait();
  bulk_expect(o.arrival, OUT_WARP);
  for (int b = 0; b < WIDE_COLUMNS / 64; b++) tensor_copy(o.boxes + b * OUT_BOX, &map_c, w.column + 64 * b, row, w.matrix, o.arrival);
}

__device__ __forceinline__ void finish_out(const Gemm& g, const TensorMap& map_c, const WideOut& o, const WideItem& w, i32 row, int lane, const float (&bias)[8], const float (&sum)[128], u32 turn) {
  if (g.bias) {
    *(float4*)(o.bias + 8 * lane) = make_float4(bias[0], bias[1], bias[2], bias[3]);
    *(float4*)(o.bias + 8 * lane + 4) = make_float4(bias[4], bias[5], bias[6], bias[7]);
  }
  if (g.add) bulk_wait(o.arrival, turn);
  else if (lane == 0) tensor_store_wait();
  __syncwarp();
  const int line = lane / 8 % 2 * 8 + lane % 8, t = lane % 4;
#pragma unroll
  for (int j = 0; j < 32; j += 2) { /* 16 columns */
    u8* at = o.boxes + j / 8 * OUT_BOX + line * BOX_LINE + ((j % 8 + lane / 16) ^ (line & 7)) * 16;
    u32 before[4] = {}, v[4];
    if (g.add) load_matrix_x4(before, at);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int k = 4 * (j + i / 2) + i % 2 * 2;
      float low = sum[k], high = sum[k + 1];
      if (g.bias) {
        const float2 b = *(const float2*)(o.bias + 8 * (j + i / 2) + 2 * t);
        low += b.x, high += b.y;
      }
      if (g.add) low += bf16_low(before[i]), high += bf16_high(before[i]);
      v[i] = pack_bf16(low, high);
    }
    if (g.add) __syncwarp();
    store_matrix_x4(at, v);
  }
  wgmma_show_shared();
  __syncwarp();
  if (lane != 0) return;
  for (int b = 0; b < WIDE_COLUMNS / 64; b++)
    if (w.column + 64 * b < g.n) tensor_store(&map_c, o.boxes + b * OUT_BOX, w.column + 64 * b, row, w.matrix);
  tensor_store_commit();
}
#endif

template <bool A_ROWS, bool B_ROWS>
__global__ void __launch_bounds__(WIDE_THREADS, 1)
    gemm_wgmma_kernel(const __grid_constant__ TensorMap map_a, const __grid_constant__ TensorMap map_b, const __grid_constant__ TensorMap map_c, const __grid_constant__ Gemm g, const __grid_constant__ WidePlan plan) {
#if defined(PSI_WGMMA)
  PSI_DYNAMIC_SHARED(shared);
  u64 *full = (u64*)(shared + WIDE_ARRIVALS), *empty = full + WIDE_STAGES, *given = empty + WIDE_STAGES;
  let_next_start();
  if (threadIdx.x == 0) {
    prefetch_map(&map_a);
    prefetch_map(&map_b);
    for (int s = 0; s < WIDE_STAGES; s++) bulk_start(full + s), count_start(empty + s, 2);
    for (int w = 0; w < WIDE_WARPS; w++) bulk_start(given + w);
  }
  wait_for_inputs();
  __syncthreads();
  int stage = 0;
  u32 turn = 0; /* how often the ring went round, its last bit */
  if (threadIdx.x < 128) {
    give_registers<40>();
    if (threadIdx.x != 0) return;
    for (i32 id = blockIdx.x; id < plan.items; id += gridDim.x) {
      const WideItem w = wide_item(plan, id);
      for (i32 u = w.unit; u < w.unit_end; u++) {
        bulk_wait(empty + stage, turn ^ 1);
        u8 *a = shared + stage * WIDE_STAGE, *b = a + WIDE_A;
        bulk_expect(full + stage, WIDE_STAGE);
        const i32 k = u * WIDE_K;
        if (A_ROWS) tensor_copy(a, &map_a, k, w.row, w.matrix, full + stage);
        else
#pragma unroll
          for (int i = 0; i < WIDE_ROWS / 64; i++) tensor_copy(a + i * BOX_BLOCK, &map_a, w.row + 64 * i, k, w.matrix, full + stage);
        if (B_ROWS) tensor_copy(b, &map_b, k, w.column, w.matrix, full + stage);
        else
#pragma unroll
          for (int i = 0; i < WIDE_COLUMNS / 64; i++) tensor_copy(b + i * BOX_BLOCK, &map_b, w.column + 64 * i, k, w.matrix, full + stage);
        if (++stage == WIDE_STAGES) stage = 0, turn ^= 1;
      }
    }
    return;
  }
  take_registers<232>();
  const int group = threadIdx.x / 128 - 1, warp = threadIdx.x / 32 - 4, lane = threadIdx.x % 32;
  const bool speaks = threadIdx.x % 128 == 0;
  constexpr u32 A_STEP = A_ROWS ? 32 : 16 * BOX_LINE, B_STEP = B_ROWS ? 32 : 16 * BOX_LINE;
  const SharedSide first_a = shared_side(shared + group * BOX_BLOCK, A_ROWS ? ONE_BLOCK : BOX_BLOCK);
  const SharedSide first_b = shared_side(shared + WIDE_A, B_ROWS ? ONE_BLOCK : BOX_BLOCK);
  const WideOut out = {shared + WIDE_OUT + warp * OUT_WARP, (float*)(shared + WIDE_BIAS + warp * BIAS_WARP), given + warp};
  u32 made = 0; /* tiles of this block, the last bit of their number */
  for (i32 id = blockIdx.x; id < plan.items; id += gridDim.x, made ^= 1) {
    const WideItem w = wide_item(plan, id);
    float sum[128], bias[8];
    if (plan.boxes) begin_out(g, map_c, out, w, w.row + warp * 16, lane, bias);
    __syncwarp();
    int before = -1; /* the stage that products may still read */
    for (i32 u = w.unit; u < w.unit_end; u++) {
      const SharedSide a = shared_side_at(first_a, stage * WIDE_STAGE), b = shared_side_at(first_b, stage * WIDE_STAGE);
      bulk_wait(full + stage, turn);
      wgmma_fence();
#pragma unroll
      for (int step = 0; step < WIDE_K / 16; step++)
        wgmma_shared<A_ROWS, B_ROWS>(sum, shared_side_at(a, step * A_STEP), shared_side_at(b, step * B_STEP), u > w.unit || step > 0);
      wgmma_commit();
      wgmma_wait<1>(sum);
      if (before >= 0 && speaks) count_arrive(empty + before);
      before = stage;
      if (++stage == WIDE_STAGES) stage = 0, turn ^= 1;
    }
    wgmma_wait<0>(sum);
    if (before >= 0 && speaks) count_arrive(empty + before);
    if (plan.boxes) finish_out(g, map_c, out, w, w.row + warp * 16, lane, bias, sum, made);
    else store_wide(g, plan, w, sum, warp, lane);
  }
  if (plan.boxes && lane == 0) tensor_store_wait();
#endif
}

/* C (+)= the parts in their order (+ bias) */
__global__ void gemm_parts_kernel(const __grid_constant__ Gemm g, const float* parts, i32 splits) {
  let_next_start();
  wait_for_inputs();
  const i64 size = (i64)g.batch * g.m * g.n, i = (i64)blockIdx.x * FLAT_THREADS + threadIdx.x;
  if (i >= size) return;
  float v = parts[i];
  for (i32 s = 1; s < splits; s++) v += parts[s * size + i];
  const i64 column = i % g.n, row = i / g.n % g.m, at = i / g.n / g.m * g.c_batch + row * g.c_pitch + column;
  if (g.bias) v += g.bias[column];
  if (g.add) v += g.c.in().at(at);
  g.c.put(at, v);
}

bool gemm_fits_wgmma(const Gemm& g) {
  const auto fits = [](const GemmSide& s) { return s.half && s.pitch % 8 == 0 && s.batch % 8 == 0 && (uintptr_t)s.p % 16 == 0; };
  return device.compute == 90 && !g.starts && fits(g.a) && fits(g.b) && g.m >= 64 && g.n >= 64 && g.k >= 64;
}

/* Parts of k: as many as make the last turn of the machine full, where that pays for adding them up. */
static i32 wide_splits(const Gemm& g, i64 tiles, i32 units, f64 scratch_bytes) {
  const f64 size = 4.0 * g.batch * g.m * g.n;
  i32 best = 1;
  f64 least = 0;
  for (i32 s = 1; s <= 64 && units / s >= 8; s++) {
    if (s > 1 && s * size > scratch_bytes) break;
    const f64 turns = (f64)PSI_DIVIDE_UP(tiles * s, WIDE_PROCESSORS);
    /* estimated, not measured: in units of 64 ks of a tile, about 0.6 us; a tile's end takes two, parts pass through memory twice */
    const f64 cost = turns * (PSI_DIVIDE_UP(units, s) + 2) + (s > 1 ? 2 * s * size / 4e12 / 0.6e-6 + 4 : 0);
    if (s == 1 || cost < least) best = s, least = cost;
  }
  return best;
}

static i32 side_map(const char* op, TensorMap& map, const GemmSide& s, i64 rows, i64 k, i64 batch, i32 tile) {
  return s.rows ? make_tensor_map(op, map, s.p, k, rows, batch, s.pitch, s.batch, tile) : make_tensor_map(op, map, s.p, rows, k, batch, s.pitch, s.batch, WIDE_K);
}

i32 gemm_wgmma(const char* op, const Gemm& g, void* scratch, f64 scratch_bytes) {
  TensorMap a, b, c = {};
  PSI_TRY(side_map(op, a, g.a, g.m, g.k, g.batch, WIDE_ROWS));
  PSI_TRY(side_map(op, b, g.b, g.n, g.k, g.batch, WIDE_COLUMNS));
  WidePlan p;
  p.tiles_m = PSI_DIVIDE_UP(g.m, WIDE_ROWS), p.tiles_n = PSI_DIVIDE_UP(g.n, WIDE_COLUMNS), p.units = PSI_DIVIDE_UP(g.k, WIDE_K);
  const i64 tiles = (i64)p.tiles_m * p.tiles_n * g.batch;
  p.splits = wide_splits(g, tiles, p.units, scratch ? scratch_bytes : 0);
  if (tiles * p.splits >= (i64)1 << 31) return fail(PSI_UNSUPPORTED, "[%s] expected a product of fewer than 2^31 tiles.", op);
  p.items = (i32)(tiles * p.splits);
  p.parts = (float*)scratch;
  p.boxes = p.splits == 1 && g.c.half && g.c_pitch % 8 == 0 && g.c_batch % 8 == 0 && (uintptr_t)g.c.p % 16 == 0;
  if (p.boxes) PSI_TRY(make_tensor_map(op, c, g.c.p, g.n, g.m, g.batch, g.c_pitch, g.c_batch, 16));
  const auto kernel = g.a.rows ? g.b.rows ? gemm_wgmma_kernel<true, true> : gemm_wgmma_kernel<true, false>
                               : g.b.rows ? gemm_wgmma_kernel<false, true> : gemm_wgmma_kernel<false, false>;
  PSI_TRY(launch(op, kernel, dim3(min(p.items, device.multiprocessors)), dim3(WIDE_THREADS), WIDE_SHARED, a, b, c, g, p));
  if (p.splits == 1) return PSI_OK;
  const i64 size = (i64)g.batch * g.m * g.n;
  return launch(op, gemm_parts_kernel, dim3((unsigned)PSI_DIVIDE_UP(size, FLAT_THREADS)), dim3(FLAT_THREADS), 0, g, (const float*)scratch, p.splits);
}

}  // namespace psi
