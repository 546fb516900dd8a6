/*
 * cuBLASLt's functions that psionic calls, in plain loops over host memory: for tests without devices. It is strict about
 * what it is given (attributes, their sizes, pitches, alignment), as the library is. Sums run from the last k to the first,
 * so that their bits tell them from those of psionic's kernels.
 * g++ -O2 -std=c++17 -shared -fPIC cublaslt.cpp -o libcublaslt_standin.so
 * -DSTANDIN_VERSION=...: another version's number. -DSLOW: products take a millisecond longer.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#ifndef STANDIN_VERSION
#define STANDIN_VERSION 130101
#endif

enum { OK = 0, INVALID = 7, NOT_SUPPORTED = 15 };
enum { R_32F = 0, R_16BF = 14, COMPUTE_32F = 68 };

struct Desc {
  int32_t transpose[2];
};
struct Layout {
  int type;
  uint64_t rows, columns;
  int64_t pitch;
  int32_t batch;
  int64_t offset;
};
struct Preference {
  uint64_t workspace;
  uint32_t mask, alignment[4];
};
/* data[0]: 1 for all algorithms of this library; data[1]: parts of k; data[2]: how they are added up; data[3]: its version */
struct Algorithm {
  uint64_t data[8];
};
struct Result {
  Algorithm algorithm;
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
};

static float value(const Layout* l, const void* p, int64_t at) {
  if (l->type == R_32F) return ((const float*)p)[at];
  const uint32_t bits = (uint32_t)((const uint16_t*)p)[at] << 16;
  float v;
  memcpy(&v, &bits, 4);
  return v;
}
static void put(const Layout* l, void* p, int64_t at, float v) {
  if (l->type == R_32F) {
    ((float*)p)[at] = v;
    return;
  }
  uint32_t bits;
  memcpy(&bits, &v, 4);
  ((uint16_t*)p)[at] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* The sizes of a product, or false where its matrices do not fit each other. */
static bool sizes(const Desc* d, const Layout* a, const Layout* b, const Layout* c, int64_t& m, int64_t& n, int64_t& k) {
  m = (int64_t)c->rows, n = (int64_t)c->columns, k = (int64_t)(d->transpose[0] ? a->rows : a->columns);
  const uint64_t a_rows = d->transpose[0] ? a->columns : a->rows;
  const uint64_t b_k = d->transpose[1] ? b->columns : b->rows, b_columns = d->transpose[1] ? b->rows : b->columns;
  const bool fit = a_rows == (uint64_t)m && b_k == (uint64_t)k && b_columns == (uint64_t)n;
  return fit && a->type == R_16BF && b->type == R_16BF && a->batch == c->batch && b->batch == c->batch;
}

extern "C" {
size_t cublasLtGetVersion() { return STANDIN_VERSION; }
int cublasLtCreate(void** handle) {
  *handle = new int(1);
  return OK;
}
int cublasLtDestroy(void* handle) {
  delete (int*)handle;
  return OK;
}
int cublasLtMatmulDescCreate(void** made, int compute, int scale) {
  if (compute != COMPUTE_32F || scale != R_32F) return INVALID;
  *made = new Desc();
  return OK;
}
int cublasLtMatmulDescDestroy(void* desc) {
  delete (Desc*)desc;
  return OK;
}
int cublasLtMatmulDescSetAttribute(void* desc, int attribute, const void* value, size_t bytes) {
  if ((attribute != 3 && attribute != 4) || bytes != 4) return INVALID;
  memcpy(&((Desc*)desc)->transpose[attribute - 3], value, 4);
  return OK;
}
int cublasLtMatrixLayoutCreate(void** made, int type, uint64_t rows, uint64_t columns, int64_t pitch) {
  if ((type != R_32F && type != R_16BF) || pitch < (int64_t)rows) return INVALID;
  *made = new Layout{type, rows, columns, pitch, 1, 0};
  return OK;
}
int cublasLtMatrixLayoutDestroy(void* layout) {
  delete (Layout*)layout;
  return OK;
}
int cublasLtMatrixLayoutSetAttribute(void* layout, int attribute, const void* value, size_t bytes) {
  Layout* l = (Layout*)layout;
  if (attribute == 5 && bytes == 4) memcpy(&l->batch, value, 4);
  else if (attribute == 6 && bytes == 8) memcpy(&l->offset, value, 8);
  else return INVALID;
  return OK;
}
int cublasLtMatmulPreferenceCreate(void** made) {
  *made = new Preference{0, 7, {256, 256, 256, 256}};
  return OK;
}
int cublasLtMatmulPreferenceDestroy(void* preference) {
  delete (Preference*)preference;
  return OK;
}
int cublasLtMatmulPreferenceSetAttribute(void* preference, int attribute, const void* value, size_t bytes) {
  Preference* p = (Preference*)preference;
  if (attribute == 1 && bytes == 8) memcpy(&p->workspace, value, 8);
  else if (attribute == 3 && bytes == 4) memcpy(&p->mask, value, 4);
  else if (attribute >= 5 && attribute <= 8 && bytes == 4) memcpy(&p->alignment[attribute - 5], value, 4);
  else return INVALID;
  return OK;
}
/* First one that cuts k into parts, which callers must pass over, then one that does not. */
int cublasLtMatmulAlgoGetHeuristic(void*, void* desc, void* a, void* b, void* c, void*, void* preference, int wanted, Result* results, int* found) {
  int64_t m, n, k;
  *found = 0;
  if (wanted < 1 || !sizes((Desc*)desc, (Layout*)a, (Layout*)b, (Layout*)c, m, n, k)) return INVALID;
  for (uint32_t alignment : ((Preference*)preference)->alignment)
    if (alignment > 16) return NOT_SUPPORTED;
  for (uint64_t parts = 2; parts >= 1 && *found < wanted; parts--) {
    Result r = {};
    r.algorithm.data[0] = 1, r.algorithm.data[1] = parts, r.algorithm.data[2] = parts - 1, r.algorithm.data[3] = STANDIN_VERSION;
    r.workspace = 1024;
    r.state = r.workspace > ((Preference*)preference)->workspace ? NOT_SUPPORTED : OK;
    results[(*found)++] = r;
  }
  return OK;
}
int cublasLtMatmulAlgoCheck(void*, void* desc, void* a, void* b, void* c, void*, const Algorithm* algorithm, Result* result) {
  int64_t m, n, k;
  if (!sizes((Desc*)desc, (Layout*)a, (Layout*)b, (Layout*)c, m, n, k)) return INVALID;
  if (algorithm->data[0] != 1 || algorithm->data[3] != STANDIN_VERSION) return INVALID;
  *result = {*algorithm, 1024, OK, 1, {}};
  return OK;
}
int cublasLtMatmulAlgoConfigGetAttribute(const Algorithm* algorithm, int attribute, void* out, size_t bytes, size_t* written) {
  if ((attribute != 2 && attribute != 3) || bytes != 4) return INVALID;
  const uint32_t v = (uint32_t)algorithm->data[attribute - 1];
  memcpy(out, &v, 4);
  *written = 4;
  return OK;
}
int cublasLtMatmul(void*, void* desc, const float* alpha, const void* a, void* a_layout, const void* b, void* b_layout, const float* beta, const void* c, void* c_layout, void* d, void* d_layout, const Algorithm* algorithm,
                   void* workspace, size_t workspace_bytes, void*) {
  const Desc* t = (Desc*)desc;
  const Layout *la = (Layout*)a_layout, *lb = (Layout*)b_layout, *lc = (Layout*)c_layout;
  int64_t m, n, k;
  if (!sizes(t, la, lb, lc, m, n, k) || d_layout != c_layout || !algorithm || algorithm->data[1] != 1) return INVALID;
  if (workspace_bytes < 1024 || (uintptr_t)workspace % 256) return INVALID;
  memset(workspace, 0xff, 1024); /* callers keep nothing there */
#ifdef SLOW
  const timespec pause = {0, 1000000};
  nanosleep(&pause, nullptr);
#endif
  for (int32_t matrix = 0; matrix < lc->batch; matrix++)
    for (int64_t j = 0; j < n; j++)
      for (int64_t i = 0; i < m; i++) {
        float sum = 0;
        for (int64_t p = k - 1; p >= 0; p--) {
          const int64_t at_a = t->transpose[0] ? p + i * la->pitch : i + p * la->pitch, at_b = t->transpose[1] ? j + p * lb->pitch : p + j * lb->pitch;
          sum += value(la, a, matrix * la->offset + at_a) * value(lb, b, matrix * lb->offset + at_b);
        }
        const int64_t at = matrix * lc->offset + i + j * lc->pitch;
        put(lc, d, at, *alpha * sum + (*beta ? *beta * value(lc, c, at) : 0.0f));
      }
  return OK;
}
}
