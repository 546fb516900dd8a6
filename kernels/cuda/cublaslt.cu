/*
 * C (+)= A' B' of bf16 by cuBLASLt, which is loaded when it is first asked for and never needed: for the shapes of products
 * that psi_cublaslt_use names, each by an algorithm that is fixed with it. An algorithm adds up all of k in one sequence (no
 * parts of k), so that a product's bits depend on the algorithm and the library's version alone.
 *
 * cuBLASLt counts by columns: what it is asked for is the transpose, C^T [n,m] = B'^T [n,k] A'^T [k,m], whose matrices lie
 * in memory as ours do. Names and values are those of NVIDIA's documentation of cuBLASLt 12 and 13.
 */
#include "cublaslt.h"

#include <dlfcn.h>
#include <stdio.h>

#include <vector>

namespace psi {

/* ---- cuBLASLt's own words, as far as they are used ---- */

struct LtAlgorithm {
  u64 data[8];
};
struct LtResult {
  LtAlgorithm algorithm;
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
};
static_assert(sizeof(LtResult) == 96, "as cuBLASLt lays its results out");
using LtHandle = void*;
using LtObject = void*; /* a descriptor, layout or preference */

enum { LT_SUCCESS = 0 };
enum { LT_R_32F = 0, LT_R_16BF = 14, LT_COMPUTE_32F = 68 };
enum { LT_OP_N = 0, LT_OP_T = 1 };
enum { LT_DESC_TRANSA = 3, LT_DESC_TRANSB = 4 };
enum { LT_LAYOUT_BATCH_COUNT = 5, LT_LAYOUT_BATCH_OFFSET = 6 };
enum { LT_PREF_WORKSPACE = 1, LT_PREF_REDUCTION_MASK = 3, LT_PREF_ALIGNMENT_A = 5, LT_PREF_ALIGNMENT_D = 8 };
enum { LT_REDUCTION_NONE = 0 };
enum { LT_CONFIG_SPLITK = 2, LT_CONFIG_REDUCTION = 3 };

struct Lt {
  void* library;
  size_t (*version)();
  int (*create)(LtHandle*);
  int (*destroy)(LtHandle);
  int (*desc_create)(LtObject*, int compute, int scale_type);
  int (*desc_destroy)(LtObject);
  int (*desc_set)(LtObject, int attribute, const void*, size_t);
  int (*layout_create)(LtObject*, int type, u64 rows, u64 columns, i64 pitch);
  int (*layout_destroy)(LtObject);
  int (*layout_set)(LtObject, int attribute, const void*, size_t);
  int (*preference_create)(LtObject*);
  int (*preference_destroy)(LtObject);
  int (*preference_set)(LtObject, int attribute, const void*, size_t);
  int (*heuristic)(LtHandle, LtObject desc, LtObject a, LtObject b, LtObject c, LtObject d, LtObject preference, int wanted, LtResult*, int* found);
  int (*check)(LtHandle, LtObject desc, LtObject a, LtObject b, LtObject c, LtObject d, const LtAlgorithm*, LtResult*);
  int (*config_get)(const LtAlgorithm*, int attribute, void*, size_t, size_t* written);
  int (*matmul)(LtHandle, LtObject desc, const void* alpha, const void* a, LtObject a_layout, const void* b, LtObject b_layout, const void* beta, const void* c, LtObject c_layout, void* d, LtObject d_layout,
                const LtAlgorithm*, void* workspace, size_t workspace_bytes, cudaStream_t);
};

static Lt lt;
static LtHandle handle; /* of the open device */

/* A shape of product: what an algorithm is for. */
struct LtShape {
  i32 batch, m, n, k;
  bool trans_a, trans_b, half; /* half: C is bf16 */
  bool operator==(const LtShape& s) const {
    return batch == s.batch && m == s.m && n == s.n && k == s.k && trans_a == s.trans_a && trans_b == s.trans_b && half == s.half;
  }
};

/* cuBLASLt's description of a shape. */
struct LtProduct {
  LtObject desc, a, b, c; /* a, b: its first and second factor, our B and A */
};

struct LtChoice {
  LtShape shape;
  LtProduct product;
  LtAlgorithm algorithm;
  size_t workspace;
};
static std::vector<LtChoice> choices;

constexpr size_t LT_ALIGNMENT = 256; /* of its workspace */

static i32 lt_failed(const char* where, const char* call, int status) {
  return fail(PSI_FAILED, "[%s] expected cuBLASLt's %s to succeed, got status %d.", where, call, status);
}

static i32 load_lt(const char* where, const char* path) {
  if (lt.library) return PSI_OK;
  Lt l = {};
  const bool named = path && *path;
  const char* names[] = {named ? path : "libcublasLt.so.13", named ? nullptr : "libcublasLt.so.12"};
  char reason[512] = "";
  for (const char* name : names) {
    if (!name || l.library) continue;
    l.library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!l.library && !*reason) snprintf(reason, sizeof reason, "%s", dlerror());
  }
  if (!l.library) return fail(PSI_UNSUPPORTED, "[%s] expected cuBLASLt (libcublasLt.so.13 or .12) to load, got: %s. Install it, or name its file.", where, reason);
  const struct { void** to; const char* name; } symbols[] = {
      {(void**)&l.version, "cublasLtGetVersion"},
      {(void**)&l.create, "cublasLtCreate"},
      {(void**)&l.destroy, "cublasLtDestroy"},
      {(void**)&l.desc_create, "cublasLtMatmulDescCreate"},
      {(void**)&l.desc_destroy, "cublasLtMatmulDescDestroy"},
      {(void**)&l.desc_set, "cublasLtMatmulDescSetAttribute"},
      {(void**)&l.layout_create, "cublasLtMatrixLayoutCreate"},
      {(void**)&l.layout_destroy, "cublasLtMatrixLayoutDestroy"},
      {(void**)&l.layout_set, "cublasLtMatrixLayoutSetAttribute"},
      {(void**)&l.preference_create, "cublasLtMatmulPreferenceCreate"},
      {(void**)&l.preference_destroy, "cublasLtMatmulPreferenceDestroy"},
      {(void**)&l.preference_set, "cublasLtMatmulPreferenceSetAttribute"},
      {(void**)&l.heuristic, "cublasLtMatmulAlgoGetHeuristic"},
      {(void**)&l.check, "cublasLtMatmulAlgoCheck"},
      {(void**)&l.config_get, "cublasLtMatmulAlgoConfigGetAttribute"},
      {(void**)&l.matmul, "cublasLtMatmul"},
  };
  for (const auto& s : symbols) {
    *s.to = dlsym(l.library, s.name);
    if (!*s.to) return fail(PSI_UNSUPPORTED, "[%s] expected cuBLASLt with %s, got a library without it.", where, s.name);
  }
  if (l.version() < 120000) return fail(PSI_UNSUPPORTED, "[%s] expected cuBLASLt 12 or newer, got version %zu.", where, l.version());
  lt = l;
  return PSI_OK;
}

static void forget(LtProduct& p) {
  if (p.desc) lt.desc_destroy(p.desc);
  for (LtObject layout : {p.a, p.b, p.c})
    if (layout) lt.layout_destroy(layout);
  p = {};
}

static int describe(LtProduct& p, const LtShape& s) {
  int status = lt.desc_create(&p.desc, LT_COMPUTE_32F, LT_R_32F);
  const i32 first = s.trans_b ? LT_OP_T : LT_OP_N, second = s.trans_a ? LT_OP_T : LT_OP_N;
  if (!status) status = lt.desc_set(p.desc, LT_DESC_TRANSA, &first, sizeof first);
  if (!status) status = lt.desc_set(p.desc, LT_DESC_TRANSB, &second, sizeof second);
  const u64 m = s.m, n = s.n, k = s.k;
  if (!status) status = s.trans_b ? lt.layout_create(&p.a, LT_R_16BF, k, n, s.k) : lt.layout_create(&p.a, LT_R_16BF, n, k, s.n);
  if (!status) status = s.trans_a ? lt.layout_create(&p.b, LT_R_16BF, m, k, s.m) : lt.layout_create(&p.b, LT_R_16BF, k, m, s.k);
  if (!status) status = lt.layout_create(&p.c, s.half ? LT_R_16BF : LT_R_32F, n, m, s.n);
  const i64 sizes[] = {(i64)s.n * s.k, (i64)s.m * s.k, (i64)s.m * s.n};
  const LtObject layouts[] = {p.a, p.b, p.c};
  for (int i = 0; i < 3 && s.batch > 1; i++) {
    if (!status) status = lt.layout_set(layouts[i], LT_LAYOUT_BATCH_COUNT, &s.batch, sizeof s.batch);
    if (!status) status = lt.layout_set(layouts[i], LT_LAYOUT_BATCH_OFFSET, &sizes[i], sizeof sizes[i]);
  }
  return status;
}

/* Whether an algorithm adds up all of k in one sequence. */
static bool in_one_sequence(const LtAlgorithm& algorithm) {
  i32 parts = 0;
  u32 scheme = 0;
  size_t written = 0;
  if (lt.config_get(&algorithm, LT_CONFIG_SPLITK, &parts, sizeof parts, &written)) return false;
  if (lt.config_get(&algorithm, LT_CONFIG_REDUCTION, &scheme, sizeof scheme, &written)) return false;
  return parts <= 1 && scheme == LT_REDUCTION_NONE;
}

static size_t usable_bytes(f64 scratch_bytes) { return scratch_bytes > LT_ALIGNMENT ? (size_t)scratch_bytes - LT_ALIGNMENT : 0; }

/* The first algorithm that cuBLASLt advises of those in one sequence. */
static i32 advised(const char* where, const LtProduct& p, f64 scratch_bytes, LtAlgorithm& out) {
  LtObject preference = nullptr;
  int status = lt.preference_create(&preference);
  const u64 workspace = usable_bytes(scratch_bytes);
  const u32 none = LT_REDUCTION_NONE, aligned = 16;
  if (!status) status = lt.preference_set(preference, LT_PREF_WORKSPACE, &workspace, sizeof workspace);
  if (!status) status = lt.preference_set(preference, LT_PREF_REDUCTION_MASK, &none, sizeof none);
  for (int i = LT_PREF_ALIGNMENT_A; !status && i <= LT_PREF_ALIGNMENT_D; i++) status = lt.preference_set(preference, i, &aligned, sizeof aligned);
  constexpr int MOST = 16;
  LtResult results[MOST];
  int found = 0;
  if (!status) status = lt.heuristic(handle, p.desc, p.a, p.b, p.c, p.c, preference, MOST, results, &found);
  if (preference) lt.preference_destroy(preference);
  for (int i = 0; !status && i < found; i++)
    if (results[i].state == LT_SUCCESS && results[i].workspace <= workspace && in_one_sequence(results[i].algorithm)) {
      out = results[i].algorithm;
      return PSI_OK;
    }
  return fail(PSI_UNSUPPORTED, "[%s] expected cuBLASLt to have an algorithm without parts of k, got %d others (status %d).", where, found, status);
}

bool cublaslt_has(const Gemm& g) {
  if (choices.empty() || g.bias || g.starts || !g.a.half || !g.b.half) return false;
  const LtShape s = {g.batch, g.m, g.n, g.k, !g.a.rows, g.b.rows, g.c.half};
  for (const LtChoice& c : choices)
    if (c.shape == s) return ((uintptr_t)g.a.p | (uintptr_t)g.b.p | (uintptr_t)g.c.p) % 16 == 0;
  return false;
}

i32 cublaslt_gemm(const char* op, const Gemm& g, void* scratch, f64 scratch_bytes) {
  const LtShape s = {g.batch, g.m, g.n, g.k, !g.a.rows, g.b.rows, g.c.half};
  const LtChoice* choice = nullptr;
  for (const LtChoice& c : choices)
    if (c.shape == s) choice = &c;
  const uintptr_t at = PSI_DIVIDE_UP((uintptr_t)scratch, LT_ALIGNMENT) * LT_ALIGNMENT;
  const size_t bytes = scratch ? usable_bytes(scratch_bytes) : 0;
  if (!choice || choice->workspace > bytes)
    return fail(PSI_INVALID, "[%s] expected %zu bytes of scratch for cuBLASLt, got %zu.", op, choice ? choice->workspace : 0, bytes);
  const LtProduct p = choice->product;
  const LtAlgorithm algorithm = choice->algorithm;
  const size_t workspace = choice->workspace;
  launches++;
  const auto call = [=] {
    const float one = 1, keep = g.add ? 1.0f : 0.0f;
    return lt.matmul(handle, p.desc, &one, g.b.p, p.a, g.a.p, p.b, &keep, g.c.p, p.c, g.c.p, p.c, &algorithm, workspace ? (void*)at : nullptr, workspace, stream);
  };
#if defined(PSI_STANDIN)
  standin::enqueue([=] {
    if (call() != LT_SUCCESS) standin::failure = "a status of cuBLASLt";
  });
  if (!standin::failure) return PSI_OK;
  standin::failure = nullptr;
  return lt_failed(op, "product", -1);
#else
  const int status = call();
  return status == LT_SUCCESS ? PSI_OK : lt_failed(op, "product", status);
#endif
}

void close_cublaslt() {
  for (LtChoice& c : choices) forget(c.product);
  choices.clear();
  if (handle) lt.destroy(handle); /* it belongs to the device that was open */
  handle = nullptr;
}

static i32 check_shape(const char* where, const LtShape& s, i32 c_type) {
  if (!handle) return fail(PSI_INVALID, "[%s] expected an open cuBLASLt, got none. Call psi_cublaslt_open first.", where);
  if (s.batch < 1 || s.m < 1 || s.n < 1 || s.k < 1 || (c_type != F32 && c_type != BF16))
    return fail(PSI_INVALID, "[%s] expected positive sizes and f32 or bf16, got batch %d, m %d, n %d, k %d, type %d.", where, s.batch, s.m, s.n, s.k, c_type);
  if (s.m % 8 || s.n % 8 || s.k % 8)
    return fail(PSI_UNSUPPORTED, "[%s] expected sides that are multiples of 8, got m %d, n %d, k %d.", where, s.m, s.n, s.k);
  return PSI_OK;
}

}  // namespace psi

PSI_API i32 psi_cublaslt_open(const char* path, void* version) {
  using namespace psi;
  if (!version) return fail(PSI_INVALID, "[psi_cublaslt_open] expected a place for the version, got null.");
  if (!stream) return no_device("psi_cublaslt_open");
  PSI_TRY(load_lt("psi_cublaslt_open", path));
  if (!handle)
    if (int status = lt.create(&handle)) {
      handle = nullptr;
      return lt_failed("psi_cublaslt_open", "cublasLtCreate", status);
    }
  *(f64*)version = (f64)lt.version();
  return PSI_OK;
}

PSI_API i32 psi_cublaslt_find(void* algorithm, i32 batch, i32 m, i32 n, i32 k, i32 trans_a, i32 trans_b, i32 c_type, f64 scratch_bytes) {
  using namespace psi;
  const char* where = "psi_cublaslt_find";
  const LtShape s = {batch, m, n, k, trans_a != 0, trans_b != 0, c_type == BF16};
  if (!algorithm) return fail(PSI_INVALID, "[%s] expected a place for 64 bytes, got null.", where);
  PSI_TRY(check_shape(where, s, c_type));
  LtProduct p = {};
  LtAlgorithm found;
  const int status = describe(p, s);
  const i32 result = status ? lt_failed(where, "description", status) : advised(where, p, scratch_bytes, found);
  forget(p);
  if (result == PSI_OK) memcpy(algorithm, &found, sizeof found);
  return result;
}

PSI_API i32 psi_cublaslt_use(const void* algorithm, i32 batch, i32 m, i32 n, i32 k, i32 trans_a, i32 trans_b, i32 c_type, f64 scratch_bytes) {
  using namespace psi;
  const char* where = "psi_cublaslt_use";
  const LtShape s = {batch, m, n, k, trans_a != 0, trans_b != 0, c_type == BF16};
  PSI_TRY(check_shape(where, s, c_type));
  for (size_t i = 0; i < choices.size(); i++)
    if (choices[i].shape == s) {
      forget(choices[i].product);
      choices.erase(choices.begin() + i);
      break;
    }
  if (!algorithm) return PSI_OK;
  LtChoice c = {};
  c.shape = s;
  memcpy(&c.algorithm, algorithm, sizeof c.algorithm);
  int status = describe(c.product, s);
  LtResult result = {};
  if (!status) status = lt.check(handle, c.product.desc, c.product.a, c.product.b, c.product.c, c.product.c, &c.algorithm, &result);
  if (!status) status = result.state;
  if (status || result.workspace > usable_bytes(scratch_bytes) || !in_one_sequence(c.algorithm)) {
    forget(c.product);
    return fail(PSI_UNSUPPORTED, "[%s] expected an algorithm of cuBLASLt %zu for this device, without parts of k and with at most %.0f bytes of workspace, got status %d, %zu bytes.", where, lt.version(), scratch_bytes,
                status, result.workspace);
  }
  c.workspace = result.workspace;
  choices.push_back(c);
  return PSI_OK;
}

PSI_API i32 psi_cublaslt_close(void) {
  psi::close_cublaslt();
  return PSI_OK;
}
