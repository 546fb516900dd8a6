/*
 * C[i,j] (+)= sum_k A[i,k] B[k,j] (+ bias[j]) for any transposition; A, B, C f32 or bf16, sums in f32.
 * B is packed once into panels [k][NR] by all threads; a task makes a tile of C of up to 96 x 768: it packs blocks of A
 * [256][MR] into its thread's scratch and keeps the tile there in f32 until the last block of k. MR x NR accumulators stay
 * in registers (8 x 48 with AVX-512, 6 x 16 elsewhere), the scheme of "Anatomy of High-Performance Matrix Multiplication" (Goto, 2008).
 * An element's sum runs over k in blocks of 256 whatever the tiling, so its bits depend on neither threads nor shape.
 */
#include "../common/half.h"
#include "../common/pool.h"
#include "../common/simd.h"
#include "train.h"

namespace psi::PSI_ISA {

#if defined(__AVX512VNNI__)
constexpr int MR = 8, NV = 3;
#else
constexpr int MR = 6, NV = 1;
#endif
constexpr i64 NR = 16 * NV, KC = 256, MC = 96, NC = 768;
static_assert(MC % MR == 0 && NC % NR == 0 && (MC * KC + MC * NC) * 4 <= THREAD_SCRATCH, "a task's blocks fit its scratch");

PSI_INLINE float element(const void* p, i64 at, i32 type) {
  return type == BF16 ? bf16_to_f32(((const u16*)p)[at]) : ((const float*)p)[at];
}

/* rows x k of a strided matrix to [k][width], zeros beyond `rows`; `row` and `col` are its strides. */
template <class T, class Read>
PSI_INLINE void pack_block(float* to, const T* from, i64 row, i64 col, i64 rows, i64 k, i64 width, Read read) {
  if (row == 1) {
    for (i64 p = 0; p < k; p++) {
      const T* line = from + p * col;
      for (i64 i = 0; i < rows; i++) to[p * width + i] = read(line[i]);
      for (i64 i = rows; i < width; i++) to[p * width + i] = 0;
    }
    return;
  }
  constexpr i64 STRIPE = 64; /* lines of `to` that stay in the cache while rows are walked */
  for (i64 p0 = 0; p0 < k; p0 += STRIPE) {
    const i64 p1 = p0 + STRIPE < k ? p0 + STRIPE : k;
    for (i64 i = 0; i < width; i++) {
      if (i < rows)
        for (i64 p = p0; p < p1; p++) to[p * width + i] = read(from[i * row + p * col]);
      else
        for (i64 p = p0; p < p1; p++) to[p * width + i] = 0;
    }
  }
}

static void pack_any(float* to, const void* from, i64 at, i32 type, i64 row, i64 col, i64 rows, i64 k, i64 width) {
  if (type == BF16) pack_block(to, (const u16*)from + at, row, col, rows, k, width, [](u16 x) PSI_LAMBDA { return bf16_to_f32(x); });
  else pack_block(to, (const float*)from + at, row, col, rows, k, width, [](float x) PSI_LAMBDA { return x; });
}

/* tile [MR][NR], rows NC apart, += a [k][MR] b [k][NR]; starts from zero when `first`. */
static void micro(float* tile, const float* a, const float* b, i64 k, bool first) {
  vf acc[MR][NV];
  unroll<MR>([&](auto i) PSI_LAMBDA {
    unroll<NV>([&](auto j) PSI_LAMBDA { acc[i][j] = first ? zero() : load(tile + i * NC + 16 * j); });
  });
  for (i64 p = 0; p < k; p++, a += MR, b += NR) {
    vf v[NV];
    unroll<NV>([&](auto j) PSI_LAMBDA { v[j] = load(b + 16 * j); });
    unroll<MR>([&](auto i) PSI_LAMBDA {
      const vf s = set1(a[i]);
      unroll<NV>([&](auto j) PSI_LAMBDA { acc[i][j] = fma(s, v[j], acc[i][j]); });
    });
  }
  unroll<MR>([&](auto i) PSI_LAMBDA {
    unroll<NV>([&](auto j) PSI_LAMBDA { store(tile + i * NC + 16 * j, acc[i][j]); });
  });
}

static void write_tile(const Gemm& g, const float* tile, i64 i0, i64 rows, i64 j0, i64 columns) {
  for (i64 i = 0; i < rows; i++) {
    for (i64 j = 0; j < columns; j += 16) {
      const int n = (int)(columns - j < 16 ? columns - j : 16);
      vf v = load_n(tile + i * NC + j, n);
      if (g.bias) v = v + load_n(g.bias + j0 + j, n);
      const i64 at = (i0 + i) * g.ldc + j0 + j;
      if (g.c_type == F32) {
        float* c = (float*)g.c + at;
        store_n(c, g.accumulate ? load_n(c, n) + v : v, n);
        continue;
      }
      float lanes[16];
      store(lanes, v);
      u16* c = (u16*)g.c + at;
      for (int l = 0; l < n; l++) c[l] = f32_to_bf16(g.accumulate ? bf16_to_f32(c[l]) + lanes[l] : lanes[l]);
    }
  }
}

void gemm_product(const Gemm& g) {
  if (g.m == 0 || g.n == 0) return;
  const i64 panels = (g.n + NR - 1) / NR;
  parallel(panels, [&](i64 panel, int) {
    const i64 j0 = panel * NR, columns = g.n - j0 < NR ? g.n - j0 : NR;
    pack_any(g.packed + panel * NR * g.k, g.b, j0 * g.b_col, g.b_type, g.b_col, g.b_row, columns, g.k, NR);
  });
  /* smaller tiles until there is work for all threads */
  i64 mc = MC, nc = NC;
  const i64 wanted = 4 * pool_threads();
  while (((g.m + mc - 1) / mc) * ((g.n + nc - 1) / nc) < wanted && nc > 4 * NR) nc /= 2;
  while (((g.m + mc - 1) / mc) * ((g.n + nc - 1) / nc) < wanted && mc > 24) mc /= 2;
  nc = (nc + NR - 1) / NR * NR;
  mc = (mc + MR - 1) / MR * MR;
  const i64 across = (g.n + nc - 1) / nc, down = (g.m + mc - 1) / mc;
  parallel(across * down, [&](i64 task, int thread) {
    const i64 i0 = task / across * mc, j0 = task % across * nc;
    const i64 rows = g.m - i0 < mc ? g.m - i0 : mc, columns = g.n - j0 < nc ? g.n - j0 : nc;
    float* a = (float*)thread_scratch(thread);
    float* tile = a + MC * KC;
    for (i64 k0 = 0; k0 == 0 || k0 < g.k; k0 += KC) {
      const i64 k = g.k - k0 < KC ? g.k - k0 : KC;
      for (i64 i = 0; i < rows; i += MR)
        pack_any(a + i * KC, g.a, (i0 + i) * g.a_row + k0 * g.a_col, g.a_type, g.a_row, g.a_col, rows - i < MR ? rows - i : MR, k, MR);
      for (i64 j = 0; j < columns; j += NR) {
        const float* b = g.packed + (j0 + j) / NR * NR * g.k + k0 * NR;
        for (i64 i = 0; i < rows; i += MR) micro(tile + i * NC + j, a + i * KC, b, k, k0 == 0);
      }
    }
    write_tile(g, tile, i0, rows, j0, columns);
  });
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
static bool gemm_type(i32 t) { return t == psi::F32 || t == psi::BF16; }

static double read_any(const void* p, i64 at, i32 type) {
  return type == psi::F64 ? ((const double*)p)[at] : type == psi::BF16 ? psi::bf16_to_f32(((const u16*)p)[at]) : ((const float*)p)[at];
}
static void write_any(void* p, i64 at, i32 type, double v) {
  if (type == psi::F64) ((double*)p)[at] = v;
  else if (type == psi::BF16) ((u16*)p)[at] = psi::f32_to_bf16((float)v);
  else ((float*)p)[at] = (float)v;
}

PSI_API i32 psi_gemm_ref(void* c, const void* a, const void* b, const void* bias, void*, i32 batch, i32 m, i32 n, i32 k, i32 trans_a, i32 trans_b, i32 a_type, i32 b_type, i32 c_type, i32 accumulate, f64) {
  const i32 bias_type = c_type == psi::F64 ? psi::F64 : psi::F32;
  for (i64 s = 0; s < batch; s++)
    for (i64 i = 0; i < m; i++)
      for (i64 j = 0; j < n; j++) {
        double sum = 0;
        for (i64 p = 0; p < k; p++)
          sum += read_any(a, s * m * k + (trans_a ? p * m + i : i * k + p), a_type) * read_any(b, s * n * k + (trans_b ? j * k + p : p * n + j), b_type);
        if (bias) sum += read_any(bias, j, bias_type);
        const i64 at = (s * m + i) * n + j;
        write_any(c, at, c_type, accumulate ? read_any(c, at, c_type) + sum : sum);
      }
  return PSI_OK;
}

PSI_API i32 psi_gemm(void* c, const void* a, const void* b, const void* bias, void* scratch, i32 batch, i32 m, i32 n, i32 k, i32 trans_a, i32 trans_b, i32 a_type, i32 b_type, i32 c_type, i32 accumulate, f64 scratch_bytes) {
  PSI_OPENED("psi_gemm");
  if (!c || !a || !b || batch < 0 || m < 0 || n < 0 || k < 0)
    return psi::fail(PSI_INVALID, "[psi_gemm] expected non-null pointers and sizes of at least 0, got batch %d, m %d, n %d, k %d.", batch, m, n, k);
  const bool f64_all = a_type == psi::F64 && b_type == psi::F64 && c_type == psi::F64;
  if (f64_all) return psi_gemm_ref(c, a, b, bias, nullptr, batch, m, n, k, trans_a, trans_b, a_type, b_type, c_type, accumulate, 0);
  if (!gemm_type(a_type) || !gemm_type(b_type) || !gemm_type(c_type))
    return psi::fail(PSI_UNSUPPORTED, "[psi_gemm] expected f32 or bf16, or f64 for all three, got types %d, %d, %d.", a_type, b_type, c_type);
  const i64 needed = psi::gemm_packed_floats(n, k) * 4;
  if (needed > 0 && (!scratch || scratch_bytes < (f64)needed))
    return psi::fail(PSI_INVALID, "[psi_gemm] expected %lld bytes of scratch, got %.0f.", (long long)needed, scratch_bytes);
  const i64 c_bytes = c_type == psi::BF16 ? 2 : 4, a_bytes = a_type == psi::BF16 ? 2 : 4, b_bytes = b_type == psi::BF16 ? 2 : 4;
  for (i64 s = 0; s < batch; s++) {
    psi::Gemm g = {(u8*)c + s * m * n * c_bytes, (const u8*)a + s * m * k * a_bytes, (const u8*)b + s * n * k * b_bytes, (const float*)bias,
                   n, trans_a ? 1 : k, trans_a ? m : 1, trans_b ? 1 : n, trans_b ? k : 1, m, n, k, c_type, a_type, b_type, accumulate != 0, (float*)scratch};
    PSI_RUN(gemm_product)(g);
  }
  return PSI_OK;
}
#endif
