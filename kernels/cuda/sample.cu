/*
 * The next token of each row of logits, as src/serve/engine/sampler.ts chooses it: biases and penalties, mask, top-k, top-p,
 * min-p, draw. Blocks take pieces of 8192 logits: they apply the entries in place and find the highest logit, count logits
 * by their distance from it, and list those that may be kept; then one block per record sorts the list, narrows it down,
 * draws, and puts the changed logits back. Greedy rows need the first and the last kernel only. All sums that threads
 * share are whole numbers, so a row's token does not depend on the other rows nor on the order of threads.
 */
#include "sample_draw.cuh"

namespace psi {

constexpr int PIECE_THREADS = 512;
constexpr int PIECE_EACH = SAMPLE_PIECE / PIECE_THREADS; /* logits of a thread, in fours */

__device__ __forceinline__ i32 piece_id(int j) { return blockIdx.x * SAMPLE_PIECE + (j / 4 * PIECE_THREADS + threadIdx.x) * 4 + j % 4; }

/* This thread's logits of its piece: -inf where the mask forbids one, NaN past the end of the row. */
__device__ __forceinline__ void read_logits(float (&v)[PIECE_EACH], const float* row, const u32* mask, i32 width) {
  const bool whole = width % 4 == 0 && (uintptr_t)row % 16 == 0;
#pragma unroll
  for (int j = 0; j < PIECE_EACH; j += 4) {
    const i32 id = piece_id(j);
    if (whole && id < width) {
      float4 four = *(const float4*)(row + id);
      v[j] = four.x, v[j + 1] = four.y, v[j + 2] = four.z, v[j + 3] = four.w;
    } else {
      for (int i = 0; i < 4; i++) v[j + i] = id + i < width ? row[id + i] : NAN;
    }
  }
  if (!mask) return;
#pragma unroll
  for (int j = 0; j < PIECE_EACH; j++)
    if (piece_id(j) < width && !allowed(mask, piece_id(j))) v[j] = -INFINITY;
}

/* Roundings as in src/serve/engine/penalties.ts: f64 in each step, f32 between bias, penalties and the last loss. */
__device__ __forceinline__ float changed(float logit, const SampleEntry& e, const SampleRecord& r) {
  if (e.bias != 0) logit = (float)((f64)logit + e.bias);
  if (e.count > 0) {
    const f64 scaled = logit >= 0 ? (f64)logit / r.repeat : (f64)logit * r.repeat;
    logit = (float)__dadd_rn(__dadd_rn(scaled, -__dmul_rn(r.frequency, (f64)e.count)), -r.presence);
  }
  if (e.loss != 0) logit = (float)((f64)logit - e.loss);
  return logit;
}

__global__ void __launch_bounds__(PIECE_THREADS) sample_scan_kernel(const __grid_constant__ SampleArguments a) {
  __shared__ float maxima[32], sums[32];
  __shared__ word bests[PIECE_THREADS / 32];
  __shared__ u32 broken;
  let_next_start();
  wait_for_inputs();
  const SampleRecord r = a.records[blockIdx.y];
  if (!usable(a, r)) return;
  SampleWork& work = a.work[blockIdx.y];
  SamplePiece& piece = work.pieces[blockIdx.x];
  float* row = a.logits + (i64)r.row * a.width;
  float v[PIECE_EACH];
  if (r.flags & SAMPLE_LOGPROB) {
    read_logits(v, row, nullptr, a.width);
    float top = -INFINITY, sum = 0.0f;
    for (int j = 0; j < PIECE_EACH; j++) top = fmaxf(top, v[j]);
    top = block_max(top, maxima);
    for (int j = 0; j < PIECE_EACH; j++) sum += v[j] > -INFINITY ? expf(v[j] - top) : 0.0f;
    sum = block_sum(sum, sums);
    if (threadIdx.x == 0) piece.raw_top = top, piece.raw_sum = sum;
  }
  if (threadIdx.x == 0) broken = 0;
  __syncthreads();
  const i32 begin = blockIdx.x * SAMPLE_PIECE, end = min(begin + SAMPLE_PIECE, a.width);
  for (i32 i = threadIdx.x; i < r.entries; i += PIECE_THREADS) {
    const SampleEntry e = a.entries[r.first_entry + i];
    if ((u32)e.token >= (u32)a.width) atomicOr(&broken, 1u);
    if (e.token < begin || e.token >= end) continue;
    const float logit = row[e.token];
    a.saved[r.first_entry + i] = logit;
    row[e.token] = changed(logit, e, r);
  }
  if (!greedy(r)) {
    const i32 blocks = gridDim.x, words = sizeof(SampleTally) / sizeof(word);
    for (i32 i = blockIdx.x * PIECE_THREADS + threadIdx.x; i < words; i += blocks * PIECE_THREADS) ((word*)&work.tally)[i] = 0;
  }
  __syncthreads();
  if (blockIdx.x == 0 && threadIdx.x == 0) work.listed = 0, work.broken = broken;
  read_logits(v, row, mask_of(a, r), a.width);
  word best = 0;
  for (int j = 0; j < PIECE_EACH; j++) {
    word score = score_of(v[j], piece_id(j));
    if (score > best) best = score;
  }
  best = warp_highest(best);
  if (threadIdx.x % 32 == 0) bests[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x < 32) {
    best = warp_highest(threadIdx.x < PIECE_THREADS / 32 ? bests[threadIdx.x] : 0);
    if (threadIdx.x == 0) piece.best = best;
  }
}

/* Whether a record draws, and then what its row's highest score is. */
__device__ __forceinline__ bool draws(const SampleArguments& a, const SampleRecord& r, word* shared, word* best) {
  if (!usable(a, r) || greedy(r)) return false;
  *best = row_best(a.work[blockIdx.y].pieces, gridDim.x, shared);
  return finite_top(*best);
}

__global__ void __launch_bounds__(PIECE_THREADS) sample_count_kernel(const __grid_constant__ SampleArguments a) {
  __shared__ SampleTally tally;
  __shared__ word first, warps[32];
  let_next_start();
  wait_for_inputs();
  const SampleRecord r = a.records[blockIdx.y];
  word best;
  if (!draws(a, r, &first, &best)) return;
  SampleWork& work = a.work[blockIdx.y];
  const float top = logit_of(best);
  float v[PIECE_EACH];
  read_logits(v, a.logits + (i64)r.row * a.width, mask_of(a, r), a.width);
  if (!narrows(r)) {
    word sum = 0, total;
    for (int j = 0; j < PIECE_EACH; j++) sum += weight_of(((f64)v[j] - (f64)top) / r.temperature);
    block_scan(sum, warps, &total);
    if (threadIdx.x == 0) work.pieces[blockIdx.x].warm = total;
    return;
  }
  const bool weigh = !ranked(r);
  for (i32 i = threadIdx.x; i < (i32)(sizeof tally / sizeof(word)); i += PIECE_THREADS) ((word*)&tally)[i] = 0;
  __syncthreads();
  for (int j = 0; j < PIECE_EACH; j++) {
    if (v[j] != v[j]) continue;
    const i32 bin = bin_of(top, v[j]);
    atomicAdd(&tally.counts[bin], 1u);
    if (!weigh) continue;
    const f64 d = (f64)v[j] - (f64)top;
    const word mass = weight_of(d), warm = weight_of(d / r.temperature);
    if (mass) atomicAdd(&tally.mass[bin], mass);
    if (warm) atomicAdd(&tally.warm[bin], warm);
  }
  __syncthreads();
  for (i32 b = threadIdx.x; b < SAMPLE_BINS; b += PIECE_THREADS) {
    if (tally.counts[b]) atomicAdd(&work.tally.counts[b], tally.counts[b]);
    if (tally.mass[b]) atomicAdd(&work.tally.mass[b], tally.mass[b]);
    if (tally.warm[b]) atomicAdd(&work.tally.warm[b], tally.warm[b]);
  }
}

__global__ void __launch_bounds__(PIECE_THREADS) sample_list_kernel(const __grid_constant__ SampleArguments a) {
  __shared__ word bins[SAMPLE_BINS], first;
  __shared__ CrossingShared crossing;
  let_next_start();
  wait_for_inputs();
  const SampleRecord r = a.records[blockIdx.y];
  word best;
  if (!draws(a, r, &first, &best) || !narrows(r)) return;
  SampleWork& work = a.work[blockIdx.y];
  const ListCut cut = list_cut<PIECE_THREADS>(r, work.tally, best, bins, crossing);
  if (cut.count > SAMPLE_LIST) return;
  const float top = logit_of(best);
  float v[PIECE_EACH];
  read_logits(v, a.logits + (i64)r.row * a.width, mask_of(a, r), a.width);
  for (int j = 0; j < PIECE_EACH; j++)
    if (v[j] == v[j] && bin_of(top, v[j]) <= cut.last) work.list[atomicAdd(&work.listed, 1u)] = score_of(v[j], piece_id(j));
}

union FinishShared {
  ListShared list;
  WideShared wide;
};

/* The token of a record that draws. */
__device__ __forceinline__ i32 drawn_token(const SampleArguments& a, const SampleRecord& r, word best, FinishShared& s) {
  SampleWork& work = a.work[blockIdx.x];
  const RowView row = {a.logits + (i64)r.row * a.width, mask_of(a, r), a.width};
  if (!narrows(r)) return draw_in_order(r, row, work.pieces, best, s.wide);
  const ListCut cut = list_cut<FINISH_THREADS>(r, work.tally, best, s.wide.sums, s.wide.crossing);
  if (cut.count > SAMPLE_LIST) {
    if (!ranked(r)) return draw_from_many(r, row, work.tally, best, s.wide);
    const i32 count = list_ranked(r, row, work, best, s.wide);
    return draw_from_list(r, work.list, count, 0.0, s.list);
  }
  word mass = 0, total;
  for (i32 b = threadIdx.x; b < SAMPLE_BINS; b += FINISH_THREADS) mass += work.tally.mass[b];
  block_scan(mass, s.wide.crossing.warps, &total);
  __syncthreads();
  return draw_from_list(r, work.list, (i32)cut.count, (f64)total / WEIGHT_ONE, s.list);
}

__global__ void __launch_bounds__(FINISH_THREADS) sample_finish_kernel(const __grid_constant__ SampleArguments a) {
  __shared__ FinishShared s;
  __shared__ word first;
  let_next_start();
  wait_for_inputs();
  const SampleRecord r = a.records[blockIdx.x];
  i32 token = -1;
  float logprob = NAN;
  if (usable(a, r)) {
    const SampleWork& work = a.work[blockIdx.x];
    float* row = a.logits + (i64)r.row * a.width;
    const i32 pieces = PSI_DIVIDE_UP(a.width, SAMPLE_PIECE);
    const word best = row_best(work.pieces, pieces, &first);
    token = greedy(r) || !finite_top(best) ? id_of(best) : drawn_token(a, r, best, s);
    __syncthreads();
    for (i32 i = threadIdx.x; i < r.entries; i += FINISH_THREADS) {
      const i32 id = a.entries[r.first_entry + i].token;
      if ((u32)id < (u32)a.width) row[id] = a.saved[r.first_entry + i];
    }
    if (work.broken) token = -1;
    __syncthreads();
    if (threadIdx.x == 0 && token >= 0 && (r.flags & SAMPLE_LOGPROB)) {
      f64 top = -INFINITY, sum = 0;
      for (i32 p = 0; p < pieces; p++) top = fmax(top, work.pieces[p].raw_top);
      for (i32 p = 0; p < pieces; p++)
        if (work.pieces[p].raw_sum > 0) sum += work.pieces[p].raw_sum * exp(work.pieces[p].raw_top - top);
      logprob = (float)((f64)row[token] - (top + log(sum)));
    }
  }
  if (threadIdx.x == 0) a.ids[blockIdx.x] = token, a.logprobs[blockIdx.x] = logprob;
}

}  // namespace psi

PSI_API i32 psi_sample(void* ids, void* logprobs, void* logits, const void* records, const void* entries, const void* masks, void* scratch, i32 count, i32 rows, i32 width, i32 entry_count, i32 mask_count, i32 all_greedy, f64 scratch_bytes) {
  using namespace psi;
  if (!ids || !logprobs || !logits || !records) return fail(PSI_INVALID, "[psi_sample] expected non-null pointers.");
  if (count < 0 || count > 65535 || rows < 1 || width < 1)
    return fail(PSI_INVALID, "[psi_sample] expected up to 65535 records, and logits, got %d records and %d x %d logits.", count, rows, width);
  if (width > SAMPLE_WIDEST) return fail(PSI_UNSUPPORTED, "[psi_sample] expected rows of at most %d logits, got %d.", SAMPLE_WIDEST, width);
  if (entry_count < 0 || mask_count < 0 || (entry_count > 0 && !entries) || (mask_count > 0 && !masks))
    return fail(PSI_INVALID, "[psi_sample] expected entries and masks where they are counted, got %d and %d.", entry_count, mask_count);
  const f64 needed_bytes = (f64)count * sizeof(SampleWork) + 4.0 * entry_count;
  if (count > 0 && (!scratch || scratch_bytes < needed_bytes))
    return fail(PSI_INVALID, "[psi_sample] expected %.0f bytes of scratch, got %.0f.", needed_bytes, scratch ? scratch_bytes : 0);
  SampleWork* work = (SampleWork*)scratch;
  const SampleArguments a = {(i32*)ids, (float*)logprobs, (float*)logits, (const SampleRecord*)records, (const SampleEntry*)entries,
                             (const u32*)masks, work, (float*)(work + count), rows, width, entry_count, mask_count, !all_greedy};
  const dim3 pieces((unsigned)PSI_DIVIDE_UP(width, SAMPLE_PIECE), (unsigned)count);
  PSI_TRY(launch("psi_sample", sample_scan_kernel, pieces, dim3(PIECE_THREADS), 0, a));
  if (!all_greedy) {
    PSI_TRY(launch("psi_sample", sample_count_kernel, pieces, dim3(PIECE_THREADS), 0, a));
    PSI_TRY(launch("psi_sample", sample_list_kernel, pieces, dim3(PIECE_THREADS), 0, a));
  }
  return launch("psi_sample", sample_finish_kernel, dim3((unsigned)count), dim3(FINISH_THREADS), 0, a);
}
