/*
 * loss[t] = lse[t] - z[t,target], z = softcap(x w^T + bias), with z made in chunks of the vocabulary: a chunk's logits are
 * one product (gemm.cpp); forward keeps a running maximum and sum per row (in f64), backward makes each chunk again:
 *   dz = (exp(z - lse) - [j = target]) dloss[t] (1 - (z/cap)^2);  dx += dz w;  dw += dz^T x;  dbias += sum over rows of dz.
 * Chunks depend on tokens and vocabulary only. A target below 0 has loss 0 and no gradient.
 */
#include <math.h>

#include "../common/pool.h"
#include "../common/tanh.h"
#include "train.h"

namespace psi {
struct CrossEntropy {
  float *loss, *lse;
  const float *x, *w, *bias;
  const i32* targets;
  i64 tokens, width, vocabulary, chunk;
  float softcap;
  float *logits, *packed, *running; /* running: the largest logit of each row so far */
  double* sums;
};
struct CrossEntropyGrad {
  CrossEntropy of;
  float *dx, *dw, *dbias;
  const float* dloss;
};
}  // namespace psi

PSI_KERNEL(cross_entropy_rows, const CrossEntropy& c)
PSI_KERNEL(cross_entropy_backward, const CrossEntropyGrad& g)

namespace psi::PSI_ISA {

static void chunk_logits(const CrossEntropy& c, i64 v0, i64 n) {
  Gemm g = f32_gemm(c.logits, n, c.x, c.width, 1, c.w + v0 * c.width, 1, c.width, c.tokens, n, c.width, false, c.packed);
  g.bias = c.bias ? c.bias + v0 : nullptr;
  gemm_product(g);
}

PSI_INLINE vf capped(vf z, float cap) { return cap > 0 ? set1(cap) * tanh(z / set1(cap)) : z; }

void cross_entropy_rows(const CrossEntropy& c) {
  double* sums = c.sums;
  for (i64 t = 0; t < c.tokens; t++) {
    c.running[t] = -INFINITY;
    sums[t] = 0;
    c.loss[t] = 0;
  }
  for (i64 v0 = 0; v0 < c.vocabulary; v0 += c.chunk) {
    const i64 n = c.vocabulary - v0 < c.chunk ? c.vocabulary - v0 : c.chunk;
    chunk_logits(c, v0, n);
    parallel(c.tokens, [&](i64 t, int) {
      float* z = c.logits + t * n;
      vf most = set1(-INFINITY);
      for (i64 j = 0; j < n; j += 16) {
        const int lanes = (int)(n - j < 16 ? n - j : 16);
        const vf v = capped(load_n(z + j, lanes), c.softcap);
        store_n(z + j, v, lanes);
        if (lanes == 16) most = max(v, most);
      }
      float largest = hmax(most);
      for (i64 j = n & ~15; j < n; j++) largest = z[j] > largest ? z[j] : largest;
      largest = largest > c.running[t] ? largest : c.running[t];
      vf sum = zero();
      i64 j = 0;
      for (; j + 16 <= n; j += 16) sum = sum + exp(load(z + j) - set1(largest));
      double total = hsum(sum);
      for (; j < n; j++) total += expf(z[j] - largest);
      sums[t] = sums[t] * ::exp((double)c.running[t] - largest) + total;
      c.running[t] = largest;
      const i64 target = c.targets[t] - v0;
      if (target >= 0 && target < n) c.loss[t] = z[target];
    });
  }
  for (i64 t = 0; t < c.tokens; t++) {
    const double lse = c.running[t] + log(sums[t]);
    c.lse[t] = (float)lse;
    c.loss[t] = c.targets[t] < 0 ? 0 : (float)(lse - c.loss[t]);
  }
}

void cross_entropy_backward(const CrossEntropyGrad& g) {
  const CrossEntropy& c = g.of;
  for (i64 v0 = 0; v0 < c.vocabulary; v0 += c.chunk) {
    const i64 n = c.vocabulary - v0 < c.chunk ? c.vocabulary - v0 : c.chunk;
    chunk_logits(c, v0, n);
    parallel(c.tokens, [&](i64 t, int) {
      float* z = c.logits + t * n;
      const float scale = c.targets[t] < 0 ? 0 : g.dloss[t];
      const i64 target = c.targets[t] - v0;
      const vf lse = set1(c.lse[t]);
      for (i64 j = 0; j < n; j += 16) {
        const int lanes = (int)(n - j < 16 ? n - j : 16);
        const vf v = capped(load_n(z + j, lanes), c.softcap);
        vf d = exp(v - lse);
        if (target >= j && target < j + lanes) {
          float one[16];
          store(one, d);
          one[target - j] -= 1;
          d = load(one);
        }
        d = d * set1(scale);
        if (c.softcap > 0) d = d * (set1(1) - v * v / set1(c.softcap * c.softcap));
        store_n(z + j, d, lanes);
      }
    });
    const float* w = c.w + v0 * c.width;
    gemm_product(f32_gemm(g.dx, c.width, c.logits, n, 1, w, c.width, 1, c.tokens, c.width, n, v0 > 0, c.packed));
    if (g.dw) gemm_product(f32_gemm(g.dw + v0 * c.width, c.width, c.logits, 1, n, c.x, c.width, 1, n, c.width, c.tokens, true, c.packed));
    if (!g.dbias) continue;
    parallel((n + 15) / 16, [&](i64 task, int) {
      const i64 j = task * 16;
      const int lanes = (int)(n - j < 16 ? n - j : 16);
      vf sum = zero();
      for (i64 t = 0; t < c.tokens; t++) sum = sum + load_n(c.logits + t * n + j, lanes);
      store_n(g.dbias + v0 + j, load_n(g.dbias + v0 + j, lanes) + sum, lanes);
    });
  }
}

}  // namespace psi::PSI_ISA

#ifdef PSI_LAUNCHER
template <class T>
static double plain_logit(const T* x, const T* w, const T* bias, i64 width, i64 j, double cap) {
  double sum = bias ? bias[j] : 0;
  for (i64 k = 0; k < width; k++) sum += (double)x[k] * w[j * width + k];
  return cap > 0 ? cap * tanh(sum / cap) : sum;
}
template <class T>
static void plain(T* loss, T* lse, const T* x, const T* w, const T* bias, const i32* targets, i64 tokens, i64 width, i64 vocabulary, double cap) {
  for (i64 t = 0; t < tokens; t++) {
    double most = -INFINITY, sum = 0;
    for (i64 j = 0; j < vocabulary; j++) most = fmax(most, plain_logit(x + t * width, w, bias, width, j, cap));
    for (i64 j = 0; j < vocabulary; j++) sum += exp(plain_logit(x + t * width, w, bias, width, j, cap) - most);
    lse[t] = (T)(most + log(sum));
    loss[t] = targets[t] < 0 ? 0 : (T)(most + log(sum) - plain_logit(x + t * width, w, bias, width, targets[t], cap));
  }
}
template <class T>
static void plain_grad(T* dx, T* dw, T* dbias, const T* dloss, const T* x, const T* w, const T* bias, const i32* targets, const T* lse, i64 tokens, i64 width, i64 vocabulary, double cap) {
  for (i64 t = 0; t < tokens; t++) {
    for (i64 k = 0; k < width; k++) dx[t * width + k] = 0;
    if (targets[t] < 0) continue;
    for (i64 j = 0; j < vocabulary; j++) {
      const double z = plain_logit(x + t * width, w, bias, width, j, cap);
      const double slope = cap > 0 ? 1 - z * z / (cap * cap) : 1, d = (exp(z - lse[t]) - (j == targets[t])) * dloss[t] * slope;
      for (i64 k = 0; k < width; k++) {
        dx[t * width + k] += (T)(d * w[j * width + k]);
        if (dw) dw[j * width + k] += (T)(d * x[t * width + k]);
      }
      if (dbias) dbias[j] += (T)d;
    }
  }
}

PSI_API i32 psi_cross_entropy_ref(void* loss, void* lse, const void* x, const void* w, const void* bias, const void* targets, void*, i32 tokens, i32 width, i32 vocabulary, i32 dtype, f64 softcap, f64) {
  PSI_WITH_REAL(dtype, T, plain((T*)loss, (T*)lse, (const T*)x, (const T*)w, (const T*)bias, (const i32*)targets, tokens, width, vocabulary, softcap));
  return PSI_OK;
}
PSI_API i32 psi_cross_entropy_grad_ref(void* dx, void* dw, void* dbias, const void* dloss, const void* x, const void* w, const void* bias, const void* targets, const void* lse, void*, i32 tokens, i32 width, i32 vocabulary, i32 dtype, f64 softcap, f64) {
  PSI_WITH_REAL(dtype, T, plain_grad((T*)dx, (T*)dw, (T*)dbias, (const T*)dloss, (const T*)x, (const T*)w, (const T*)bias, (const i32*)targets, (const T*)lse, tokens, width, vocabulary, softcap));
  return PSI_OK;
}

static i64 chunk_of(i64 tokens, i64 vocabulary) {
  const i64 fits = ((i64)1 << 22) / (tokens > 0 ? tokens : 1), chunk = fits > 256 ? fits : 256;
  return chunk < vocabulary ? chunk : vocabulary;
}
static i32 check(const char* where, bool pointers, const i32* targets, i32 tokens, i32 width, i32 vocabulary, i32 dtype, f64 softcap, f64 needed, const void* scratch, f64 scratch_bytes) {
  if (!pointers || tokens < 0 || width < 1 || vocabulary < 1 || !psi::is_real(dtype) || !(softcap >= 0))
    return psi::fail(PSI_INVALID, "[%s] expected pointers, f32 or f64, positive sizes and a soft-cap of at least 0, got tokens %d, width %d, vocabulary %d, dtype %d.", where, tokens, width, vocabulary, dtype);
  for (i64 t = 0; t < tokens; t++)
    if (targets[t] >= vocabulary) return psi::fail(PSI_INVALID, "[%s] expected targets below %d, got %d at %lld.", where, vocabulary, targets[t], (long long)t);
  if (dtype == psi::F32 && (!scratch || scratch_bytes < needed)) return psi::fail(PSI_INVALID, "[%s] expected %.0f bytes of scratch, got %.0f.", where, needed, scratch_bytes);
  return PSI_OK;
}

PSI_API i32 psi_cross_entropy(void* loss, void* lse, const void* x, const void* w, const void* bias, const void* targets, void* scratch, i32 tokens, i32 width, i32 vocabulary, i32 dtype, f64 softcap, f64 scratch_bytes) {
  PSI_OPENED("psi_cross_entropy");
  const i64 chunk = chunk_of(tokens, vocabulary);
  const f64 needed = 4.0 * ((f64)tokens * (f64)(chunk + 3) + (f64)width * (f64)(chunk + 48));
  i32 status = check("psi_cross_entropy", loss && lse && x && w && targets, (const i32*)targets, tokens, width, vocabulary, dtype, softcap, needed, scratch, scratch_bytes);
  if (status != PSI_OK) return status;
  if (dtype == psi::F64) return psi_cross_entropy_ref(loss, lse, x, w, bias, targets, nullptr, tokens, width, vocabulary, dtype, softcap, 0);
  double* sums = (double*)scratch;
  float* running = (float*)(sums + tokens);
  float* logits = running + tokens;
  psi::CrossEntropy c = {(float*)loss, (float*)lse, (const float*)x, (const float*)w, (const float*)bias, (const i32*)targets, tokens, width, vocabulary, chunk, (float)softcap, logits, logits + tokens * chunk, running, sums};
  PSI_RUN(cross_entropy_rows)(c);
  return PSI_OK;
}

PSI_API i32 psi_cross_entropy_grad(void* dx, void* dw, void* dbias, const void* dloss, const void* x, const void* w, const void* bias, const void* targets, const void* lse, void* scratch, i32 tokens, i32 width, i32 vocabulary, i32 dtype, f64 softcap, f64 scratch_bytes) {
  PSI_OPENED("psi_cross_entropy_grad");
  const i64 chunk = chunk_of(tokens, vocabulary), most = chunk > tokens ? chunk : tokens;
  const f64 needed = 4.0 * ((f64)tokens * (f64)chunk + ((f64)width + 48) * (f64)(most + 48));
  i32 status = check("psi_cross_entropy_grad", dx && dloss && x && w && targets && lse, (const i32*)targets, tokens, width, vocabulary, dtype, softcap, needed, scratch, scratch_bytes);
  if (status != PSI_OK) return status;
  if (dtype == psi::F64) return psi_cross_entropy_grad_ref(dx, dw, dbias, dloss, x, w, bias, targets, lse, nullptr, tokens, width, vocabulary, dtype, softcap, 0);
  float* logits = (float*)scratch;
  psi::CrossEntropyGrad g = {{nullptr, (float*)lse, (const float*)x, (const float*)w, (const float*)bias, (const i32*)targets, tokens, width, vocabulary, chunk, (float)softcap, logits, logits + tokens * chunk, nullptr, nullptr}, (float*)dx, (float*)dw, (float*)dbias, (const float*)dloss};
  PSI_RUN(cross_entropy_backward)(g);
  return PSI_OK;
}
#endif
