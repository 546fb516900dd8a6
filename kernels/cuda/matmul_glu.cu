/*
 * y[t, n] = act(gate, up) with gate = sum_k x[t, k] w[n, k] (+ bias[n]) and up, the same of row features + n: for few rows one
 * kernel (matmul_ring.cuh), else psi_matmul into scratch and psi_glu; the same bits.
 */
#include "matmul_ring.cuh"

namespace psi {

extern u64 ready_launch; /* moe_launch.cuh */

/*
 * Whether psi_matmul's form of a block for each tile is the sooner one for a row or two: many tiles, four of which a multiprocessor
 * has room for at once. (2560 to 2 x 10240 in Q8_0 on an H200: 14.7 us with psi_glu, as a ring 19.9.)
 */
template <class W>
bool sooner_apart(const MatmulArguments& p) {
  const i64 block = W::tile_bytes(p.units) + p.rows * matmul_row_bytes(p.units * W::PARTS);
  return p.rows <= MATMUL_FLOAT_ROWS && block <= 54 << 10 && p.outputs / 32 > 2 * device.multiprocessors;
}

template <class W, bool STAGED>
i32 ring_glu(const char* op, const MatmulArguments& p, u16* rounded, const ProductGate& gate, bool& done) {
  if (!p.ready && sooner_apart<W>(p)) return PSI_OK;
  const i32 stages = matmul_ring_stages<W, 2, STAGED>(p);
  done = stages > 1;
  return done ? launch_matmul_ring<W, 2, STAGED, true>(op, p, rounded, gate, stages) : PSI_OK;
}

}  // namespace psi

PSI_API i32 psi_matmul_glu(void* y, const void* x, const void* w, const void* bias, void* scratch, i32 rows, i32 features, i32 columns, i32 dtype, i32 kind, f32 alpha, f32 limit, f64 scratch_bytes) {
  using namespace psi;
  const char* op = "psi_matmul_glu";
  if (!y || !x || !w) return fail(PSI_INVALID, "[%s] expected non-null pointers.", op);
  if (rows < 0 || features < 1 || features > INT32_MAX / 2 || columns < 1)
    return fail(PSI_INVALID, "[%s] expected rows >= 0, features >= 1, columns >= 1, got %d, %d, %d.", op, rows, features, columns);
  if (kind < 0 || kind > 2) return fail(PSI_INVALID, "[%s] expected kind 0, 1 or 2, got %d.", op, kind);
  if (!(dtype & PSI_PACKED)) return fail(PSI_INVALID, "[%s] expected packed weights (dtype | %d), got dtype %d. Use psi_pack.", op, PSI_PACKED, dtype);
  if ((uintptr_t)w % 64 != 0) return fail(PSI_INVALID, "[%s] expected weights aligned to 64 bytes.", op);
  const i32 id = dtype & ~PSI_PACKED;
  const TypeInfo* type;
  PSI_TRY(check_weight_type(op, id, columns, &type));
  if (id == F32) return fail(PSI_UNSUPPORTED, "[%s] expected weights of a type that is no F32.", op);
  const f64 own = rounded_bytes(id, rows, columns) + 64, products = 8.0 * rows * features;
  if (rows > 0 && (!scratch || !(scratch_bytes >= own + 64 + products)))
    return fail(PSI_INVALID, "[%s] expected %.0f bytes of scratch, got %.0f.", op, own + 64 + products, scratch ? scratch_bytes : 0);
  if (rows == 0) return PSI_OK;
  MatmulArguments p = matmul_arguments(y, x, w, bias, rows, 2 * features, columns);
  const ProductGate gate = {kind, alpha, limit};
  u16* rounded = (u16*)(((uintptr_t)scratch + 15) & ~(uintptr_t)15);
  const bool beside = rows <= MATMUL_FLOAT_ROWS && ready_launch == launches && gated_rows != x;
  p.ready = beside;
  bool done = false;
  if (rows <= MATMUL_RING_ROWS && features % 16 == 0)
    PSI_TRY(with_weight_type(op, id, [&](auto t) {
      using W = decltype(t);
      return rows <= MATMUL_FLOAT_ROWS ? ring_glu<W, false>(op, p, rounded, gate, done) : ring_glu<W, true>(op, p, rounded, gate, done);
    }));
  if (done) {
    if (beside) ready_launch = shared_launch = launches, shared_rows = y;
    return PSI_OK;
  }
  float* both = (float*)((u8*)scratch + ((i64)own + 63) / 64 * 64);
  PSI_TRY(psi_matmul(both, x, w, bias, scratch, rows, 2 * features, columns, dtype, own));
  return psi_glu(y, both, both + features, rows, features, 2 * features, 2 * features, kind, alpha, limit);
}
