/*
 * The part of the C ABI that only training calls; the rules of psionic.h hold.
 *
 * `dtype` is that of all float tensors of a call unless said otherwise: F32; F64, which runs the plain loops of the CPU's
 * references and exists for gradient checks; or on CUDA and Metal 256 plus a bit for each pointer argument, in their order,
 * whose tensor is bf16 where the others are f32. Sums, losses, statistics, weights of routers and gradients of parameters are
 * always f32 there. CUDA's form trusts ids and starts, which lie on the device: those out of range read zeros and add
 * nothing. Gradients are written to their place where the comment says "=", added to
 * what is there where it says "+=". No float is ever added by atomics, and no sum's order depends on the thread count.
 * The prototypes are read by a test and compared with the op table in src/ir/ops.
 */
#pragma once
#include "psionic.h"

/* ---- training ops ---- */
/* c[i,j] = sum_k a'[i,k] b'[k,j] (+ bias[j]) for each of `batch` matrices, or c += it when `accumulate`.
   a' = a [m,k], or a transposed from [k,m] when trans_a; b' = b [k,n], or from [n,k] when trans_b. a and b are F32 or BF16
   each, c is F32 or BF16, bias f32; or all F64. Sums in f32. Scratch: (ceil(n/48)*48)*k*4, 0 for F64. */
PSI_API i32 psi_gemm(void* c, const void* a, const void* b, const void* bias, void* scratch, i32 batch, i32 m, i32 n, i32 k, i32 trans_a, i32 trans_b, i32 a_type, i32 b_type, i32 c_type, i32 accumulate, f64 scratch_bytes);
/* One matrix per expert over rows grouped by expert: rows starts[e] .. starts[e+1] of `rows` belong to expert e.
   mode 0: c [rows,outputs] = a [rows,columns] w[e]^T (+ bias[e]); w [experts,outputs,columns]
   mode 1: c [rows,columns] = a [rows,outputs] w[e]
   mode 2: c [experts,outputs,columns] += a[e]^T w[e] with a [rows,outputs], w [rows,columns] (bias NULL)
   Scratch: (ceil(max(outputs,columns)/48)*48)*max(outputs,columns,rows)*4, 0 for F64. */
PSI_API i32 psi_grouped_gemm(void* c, const void* a, const void* w, const void* bias, const void* starts, void* scratch, i32 mode, i32 rows, i32 experts, i32 outputs, i32 columns, i32 dtype, f64 scratch_bytes);
/* y[n] += sum_t x[t,n], t ascending; groups: y [groups,width], rows starts[g]..starts[g+1]; starts NULL: one group */
PSI_API i32 psi_column_sum(void* y, const void* x, const void* starts, i32 rows, i32 width, i32 groups, i32 dtype);
/* y[t] = table[ids[t]]; table [vocabulary,width] */
PSI_API i32 psi_lookup(void* y, const void* table, const void* ids, i32 tokens, i32 width, i32 vocabulary, i32 dtype);
/* dtable[ids[t]] += dy[t], t ascending */
PSI_API i32 psi_lookup_grad(void* dtable, const void* dy, const void* ids, i32 tokens, i32 width, i32 vocabulary, i32 dtype);
/* y = (x - mean) * scale * w + b with scale = 1/sqrt(var + eps); not `center`: mean = 0, RMS norm. w, b [width] or NULL.
   stats [rows,2] = mean, scale */
PSI_API i32 psi_norm(void* y, void* stats, const void* x, const void* w, const void* b, i32 rows, i32 width, i32 center, i32 dtype, f64 eps);
/* dx =, or += where center has bit 1 set; dw, db += where not NULL */
PSI_API i32 psi_norm_grad(void* dx, void* dw, void* db, const void* dy, const void* x, const void* w, const void* stats, i32 rows, i32 width, i32 center, i32 dtype);
/* y = x with the first `rotary_dims` of each head rotated as psi_rope does, by the opposite angle when `inverse` */
PSI_API i32 psi_rotate(void* y, const void* x, const void* positions, const void* inv_freq, i32 rows, i32 heads, i32 head_dim, i32 rotary_dims, i32 neox, i32 inverse, i32 dtype, f32 mscale);
/* Only on CUDA, heads of a multiple of 8 up to 256 elements. y = each head of x divided by its root mean square
   (1/sqrt(mean square + eps)), rotated as a whole as psi_rotate does in the neox order, times its gain [heads] or NULL.
   x, y [rows,heads*head_dim]; inv_freq [head_dim/2] */
PSI_API i32 psi_qk_norm_rope(void* y, const void* x, const void* positions, const void* inv_freq, const void* gain, i32 rows, i32 heads, i32 head_dim, i32 inverse, i32 dtype, f64 eps);
/* dx =; dgain += where not NULL */
PSI_API i32 psi_qk_norm_rope_grad(void* dx, void* dgain, const void* dy, const void* x, const void* positions, const void* inv_freq, const void* gain, i32 rows, i32 heads, i32 head_dim, i32 inverse, i32 dtype, f64 eps);
/* Attention of `sequences` sequences of `length` rows over themselves. q, y [rows,heads*head_dim]; k, v
   [rows,kv_heads*head_dim]; a row sees rows first[row] .. itself of its sequence (positions in it; NULL: 0), the last
   `window` only when window > 0. sinks [heads] or NULL. lse [rows,heads] = log of the softmax's denominator. rest, as y or
   NULL: what rounding to y's type took from y. */
PSI_API i32 psi_causal_attention(void* y, void* lse, void* rest, const void* q, const void* k, const void* v, const void* sinks, const void* first, i32 sequences, i32 length, i32 heads, i32 kv_heads, i32 head_dim, i32 window, i32 dtype, f64 scale, f64 softcap);
/* dq, dk, dv =; dsinks += where not NULL. rest as made, or NULL: of nothing but y. Scratch: heads*(4*rows + 8*sequences). */
PSI_API i32 psi_causal_attention_grad(void* dq, void* dk, void* dv, void* dsinks, const void* dy, const void* q, const void* k, const void* v, const void* y, const void* lse, const void* rest, const void* sinks, const void* first, void* scratch, i32 sequences, i32 length, i32 heads, i32 kv_heads, i32 head_dim, i32 window, i32 dtype, f64 scale, f64 softcap, f64 scratch_bytes);
/* y = act(x) * up, up NULL: act(x). kind 0: silu; 1: gelu (tanh form); 2: GPT-OSS clamped, as psi_glu; 3: relu(x)^2 */
PSI_API i32 psi_activation(void* y, const void* x, const void* up, i32 kind, i32 dtype, f64 count, f64 alpha, f64 limit);
/* dx =; dup = where up is given */
PSI_API i32 psi_activation_grad(void* dx, void* dup, const void* dy, const void* x, const void* up, i32 kind, i32 dtype, f64 count, f64 alpha, f64 limit);
/* loss[t] = lse[t] - z[t,targets[t]], z = softcap(x w^T + bias), lse = log sum exp z; a target below 0: loss 0. The
   vocabulary passes in chunks, so z never exists whole. x [tokens,width], w [vocabulary,width], bias [vocabulary] or NULL.
   Scratch: 4*(tokens*(chunk + 3) + width*(chunk + 48)), chunk = min(vocabulary, max(256, floor(2^22/tokens))); 0 for F64.
   CUDA makes whole rows of z, as many at a time as scratch holds. */
PSI_API i32 psi_cross_entropy(void* loss, void* lse, const void* x, const void* w, const void* bias, const void* targets, void* scratch, i32 tokens, i32 width, i32 vocabulary, i32 dtype, f64 softcap, f64 scratch_bytes);
/* dx =; dw, dbias += (NULL: not wanted). Scratch: 4*(tokens*chunk + (width + 48)*(max(tokens,chunk) + 48)); 0 for F64. */
PSI_API i32 psi_cross_entropy_grad(void* dx, void* dw, void* dbias, const void* dloss, const void* x, const void* w, const void* bias, const void* targets, const void* lse, void* scratch, i32 tokens, i32 width, i32 vocabulary, i32 dtype, f64 softcap, f64 scratch_bytes);
/* Not on the CPU. loss f32 [1] = scale times the sum of psi_cross_entropy's losses; dx bf16 =, dw f32 = its gradient. x and w
   bf16. Logits of `rows` rows exist at a time. Scratch: ceil(tokens/16)*64 + rows*ceil(vocabulary/64)*64*2 at least; what
   is left serves dx. */
PSI_API i32 psi_head_loss(void* loss, void* dx, void* dw, const void* x, const void* w, const void* targets, void* scratch, i32 tokens, i32 width, i32 vocabulary, i32 rows, f64 scale, f64 softcap, f64 scratch_bytes);
/* Not on the CPU. y = factor[0] x, or += it when `add`; factor f32 [1] */
PSI_API i32 psi_scale_by(void* y, const void* x, const void* factor, i32 add, i32 dtype, f64 count);
/* Top `used` experts of logits [tokens,experts], descending, the lower index on ties. mode 1: weights are the softmax over
   all; 3: the softmax over the chosen */
PSI_API i32 psi_route(void* ids, void* weights, const void* logits, i32 tokens, i32 experts, i32 used, i32 mode, i32 dtype);
/* dlogits = */
PSI_API i32 psi_route_grad(void* dlogits, const void* dweights, const void* weights, const void* ids, const void* logits, i32 tokens, i32 experts, i32 used, i32 mode, i32 dtype);
/* slots [tokens*used]: token*used + j sorted by expert, stable; places: its inverse; starts i32 [experts+1] */
PSI_API i32 psi_expert_order(void* slots, void* places, void* starts, const void* ids, i32 tokens, i32 used, i32 experts);
/* y[s] = x[slots[s]/used] */
PSI_API i32 psi_expert_rows(void* y, const void* x, const void* slots, i32 tokens, i32 used, i32 width, i32 dtype);
/* dx[t] = sum_j dy[places[t*used+j]], j ascending */
PSI_API i32 psi_expert_rows_grad(void* dx, const void* dy, const void* places, i32 tokens, i32 used, i32 width, i32 dtype);
/* y[t] = sum_j weights[t,j] x[places[t*used+j]], j ascending */
PSI_API i32 psi_expert_combine(void* y, const void* x, const void* weights, const void* places, i32 tokens, i32 used, i32 width, i32 dtype);
/* dx[place] = weights[t,j] dy[t]; dweights[t,j] = dy[t] . x[place] */
PSI_API i32 psi_expert_combine_grad(void* dx, void* dweights, const void* dy, const void* x, const void* weights, const void* places, i32 tokens, i32 used, i32 width, i32 dtype);
/* loss [1] = experts * sum_e (share of slots of e) * (mean softmax probability of e) (Switch Transformer's, 1 when even) */
PSI_API i32 psi_balance_loss(void* loss, const void* logits, const void* ids, i32 tokens, i32 experts, i32 used, i32 dtype);
/* dlogits = */
PSI_API i32 psi_balance_loss_grad(void* dlogits, const void* dloss, const void* logits, const void* ids, i32 tokens, i32 experts, i32 used, i32 dtype);
/* y = alpha wa a + beta wb b; b NULL: the first term alone; wa, wb [width] per column, or NULL for 1. y may be a or b. */
PSI_API i32 psi_mix(void* y, const void* a, const void* b, const void* wa, const void* wb, i32 width, i32 dtype, f64 count, f64 alpha, f64 beta);
/* da, db = where not NULL; dwa, dwb += where not NULL */
PSI_API i32 psi_mix_grad(void* da, void* db, void* dwa, void* dwb, const void* dy, const void* a, const void* b, const void* wa, const void* wb, i32 width, i32 dtype, f64 count, f64 alpha, f64 beta);
/* y = a * b, element-wise; y may be either */
PSI_API i32 psi_multiply(void* y, const void* a, const void* b, i32 dtype, f64 count);
/* y = x with each head of head_dim elements times its gain [heads] */
PSI_API i32 psi_head_scale(void* y, const void* x, const void* gain, i32 rows, i32 heads, i32 head_dim, i32 dtype);
/* dx =; dgain += where not NULL, rows ascending */
PSI_API i32 psi_head_scale_grad(void* dx, void* dgain, const void* dy, const void* x, const void* gain, i32 rows, i32 heads, i32 head_dim, i32 dtype);
/* F32, F64, BF16 (nearest even), each to each */
PSI_API i32 psi_cast(void* y, const void* x, i32 from, i32 to, f64 count);
/* y = x f32 as MXFP4 or Q8_0 (`format`) holds it in blocks of 32: psi_quantize and back, bit for bit. `to`: F32 or BF16;
   count in whole blocks */
PSI_API i32 psi_block_round(void* y, const void* x, i32 format, i32 to, f64 count);
PSI_API i32 psi_fill(void* y, i32 dtype, f64 count, f64 value);
/* y [1] = scale * sum x */
PSI_API i32 psi_sum(void* y, const void* x, i32 dtype, f64 count, f64 scale);
/* y[i] = scale * x[0] */
PSI_API i32 psi_spread(void* y, const void* x, i32 dtype, f64 count, f64 scale);
/* y f64 [1] = sum x^2, in pieces of 4096 summed in f64. Scratch: 8*ceil(count/4096). */
PSI_API i32 psi_sum_squares(void* y, const void* x, void* scratch, i32 dtype, f64 count, f64 scratch_bytes);
/* factor f32 [1] = min(1, limit / norm), norm f64 [1] = sqrt of the sum of `count` f64 `squares`. Where the norm, or one of
   `loss_count` f32 `losses` (NULL: none), is not finite, factor is NaN: then nothing is to be updated. */
PSI_API i32 psi_clip_factor(void* factor, void* norm, const void* squares, const void* losses, i32 count, i32 loss_count, f64 limit);

/* ---- optimisers: all f32, p and state in place; g is multiplied by factor f32 [1] first, and where that is NaN nothing
   changes; rates f64 on the device ---- */
/* rates = {lr, 1/(1-beta1^t), 1/(1-beta2^t)}. decoupled: AdamW, p -= lr (mhat/(sqrt(vhat)+eps) + decay p); else g += decay p */
PSI_API i32 psi_adam(void* p, void* m, void* v, const void* g, const void* factor, const void* rates, i32 decoupled, f64 count, f64 beta1, f64 beta2, f64 eps, f64 decay);
/* g += decay p; buffer = momentum buffer + g; p -= lr buffer; buffer NULL: p -= lr g. rates = {lr} */
PSI_API i32 psi_sgd(void* p, void* buffer, const void* g, const void* factor, const void* rates, f64 count, f64 momentum, f64 decay);
/* buffer = momentum buffer + g; y = g + momentum buffer when `nesterov`, else buffer; y = 0 where factor is NaN.
   rates = {lr, momentum} */
PSI_API i32 psi_momentum(void* y, void* buffer, const void* g, const void* factor, const void* rates, i32 nesterov, f64 count);
/* y[b] = x[b] / (Frobenius norm + eps) for `batch` matrices of `count` elements */
PSI_API i32 psi_unit_norm(void* y, const void* x, i32 batch, f64 count, f64 eps);
/* p = p (1 - lr decay) - lr scale y. rates = {lr, momentum} */
PSI_API i32 psi_muon_update(void* p, const void* y, const void* factor, const void* rates, f64 count, f64 scale, f64 decay);

/* ---- references: plain loops, sums in f64, either dtype; they work without psi_open and ignore scratch ---- */
PSI_API i32 psi_gemm_ref(void* c, const void* a, const void* b, const void* bias, void* scratch, i32 batch, i32 m, i32 n, i32 k, i32 trans_a, i32 trans_b, i32 a_type, i32 b_type, i32 c_type, i32 accumulate, f64 scratch_bytes);
PSI_API i32 psi_grouped_gemm_ref(void* c, const void* a, const void* w, const void* bias, const void* starts, void* scratch, i32 mode, i32 rows, i32 experts, i32 outputs, i32 columns, i32 dtype, f64 scratch_bytes);
PSI_API i32 psi_column_sum_ref(void* y, const void* x, const void* starts, i32 rows, i32 width, i32 groups, i32 dtype);
PSI_API i32 psi_lookup_ref(void* y, const void* table, const void* ids, i32 tokens, i32 width, i32 vocabulary, i32 dtype);
PSI_API i32 psi_lookup_grad_ref(void* dtable, const void* dy, const void* ids, i32 tokens, i32 width, i32 vocabulary, i32 dtype);
PSI_API i32 psi_norm_ref(void* y, void* stats, const void* x, const void* w, const void* b, i32 rows, i32 width, i32 center, i32 dtype, f64 eps);
PSI_API i32 psi_norm_grad_ref(void* dx, void* dw, void* db, const void* dy, const void* x, const void* w, const void* stats, i32 rows, i32 width, i32 center, i32 dtype);
PSI_API i32 psi_rotate_ref(void* y, const void* x, const void* positions, const void* inv_freq, i32 rows, i32 heads, i32 head_dim, i32 rotary_dims, i32 neox, i32 inverse, i32 dtype, f32 mscale);
PSI_API i32 psi_causal_attention_ref(void* y, void* lse, void* rest, const void* q, const void* k, const void* v, const void* sinks, const void* first, i32 sequences, i32 length, i32 heads, i32 kv_heads, i32 head_dim, i32 window, i32 dtype, f64 scale, f64 softcap);
PSI_API i32 psi_causal_attention_grad_ref(void* dq, void* dk, void* dv, void* dsinks, const void* dy, const void* q, const void* k, const void* v, const void* y, const void* lse, const void* rest, const void* sinks, const void* first, void* scratch, i32 sequences, i32 length, i32 heads, i32 kv_heads, i32 head_dim, i32 window, i32 dtype, f64 scale, f64 softcap, f64 scratch_bytes);
PSI_API i32 psi_activation_ref(void* y, const void* x, const void* up, i32 kind, i32 dtype, f64 count, f64 alpha, f64 limit);
PSI_API i32 psi_activation_grad_ref(void* dx, void* dup, const void* dy, const void* x, const void* up, i32 kind, i32 dtype, f64 count, f64 alpha, f64 limit);
PSI_API i32 psi_cross_entropy_ref(void* loss, void* lse, const void* x, const void* w, const void* bias, const void* targets, void* scratch, i32 tokens, i32 width, i32 vocabulary, i32 dtype, f64 softcap, f64 scratch_bytes);
PSI_API i32 psi_cross_entropy_grad_ref(void* dx, void* dw, void* dbias, const void* dloss, const void* x, const void* w, const void* bias, const void* targets, const void* lse, void* scratch, i32 tokens, i32 width, i32 vocabulary, i32 dtype, f64 softcap, f64 scratch_bytes);
PSI_API i32 psi_route_ref(void* ids, void* weights, const void* logits, i32 tokens, i32 experts, i32 used, i32 mode, i32 dtype);
PSI_API i32 psi_route_grad_ref(void* dlogits, const void* dweights, const void* weights, const void* ids, const void* logits, i32 tokens, i32 experts, i32 used, i32 mode, i32 dtype);
PSI_API i32 psi_expert_order_ref(void* slots, void* places, void* starts, const void* ids, i32 tokens, i32 used, i32 experts);
PSI_API i32 psi_expert_rows_ref(void* y, const void* x, const void* slots, i32 tokens, i32 used, i32 width, i32 dtype);
PSI_API i32 psi_expert_rows_grad_ref(void* dx, const void* dy, const void* places, i32 tokens, i32 used, i32 width, i32 dtype);
PSI_API i32 psi_expert_combine_ref(void* y, const void* x, const void* weights, const void* places, i32 tokens, i32 used, i32 width, i32 dtype);
PSI_API i32 psi_expert_combine_grad_ref(void* dx, void* dweights, const void* dy, const void* x, const void* weights, const void* places, i32 tokens, i32 used, i32 width, i32 dtype);
PSI_API i32 psi_balance_loss_ref(void* loss, const void* logits, const void* ids, i32 tokens, i32 experts, i32 used, i32 dtype);
PSI_API i32 psi_balance_loss_grad_ref(void* dlogits, const void* dloss, const void* logits, const void* ids, i32 tokens, i32 experts, i32 used, i32 dtype);
PSI_API i32 psi_mix_ref(void* y, const void* a, const void* b, const void* wa, const void* wb, i32 width, i32 dtype, f64 count, f64 alpha, f64 beta);
PSI_API i32 psi_mix_grad_ref(void* da, void* db, void* dwa, void* dwb, const void* dy, const void* a, const void* b, const void* wa, const void* wb, i32 width, i32 dtype, f64 count, f64 alpha, f64 beta);
PSI_API i32 psi_multiply_ref(void* y, const void* a, const void* b, i32 dtype, f64 count);
PSI_API i32 psi_head_scale_ref(void* y, const void* x, const void* gain, i32 rows, i32 heads, i32 head_dim, i32 dtype);
PSI_API i32 psi_head_scale_grad_ref(void* dx, void* dgain, const void* dy, const void* x, const void* gain, i32 rows, i32 heads, i32 head_dim, i32 dtype);
PSI_API i32 psi_cast_ref(void* y, const void* x, i32 from, i32 to, f64 count);
PSI_API i32 psi_block_round_ref(void* y, const void* x, i32 format, i32 to, f64 count);
PSI_API i32 psi_fill_ref(void* y, i32 dtype, f64 count, f64 value);
PSI_API i32 psi_sum_ref(void* y, const void* x, i32 dtype, f64 count, f64 scale);
PSI_API i32 psi_spread_ref(void* y, const void* x, i32 dtype, f64 count, f64 scale);
PSI_API i32 psi_sum_squares_ref(void* y, const void* x, void* scratch, i32 dtype, f64 count, f64 scratch_bytes);
PSI_API i32 psi_clip_factor_ref(void* factor, void* norm, const void* squares, const void* losses, i32 count, i32 loss_count, f64 limit);
PSI_API i32 psi_adam_ref(void* p, void* m, void* v, const void* g, const void* factor, const void* rates, i32 decoupled, f64 count, f64 beta1, f64 beta2, f64 eps, f64 decay);
PSI_API i32 psi_sgd_ref(void* p, void* buffer, const void* g, const void* factor, const void* rates, f64 count, f64 momentum, f64 decay);
PSI_API i32 psi_momentum_ref(void* y, void* buffer, const void* g, const void* factor, const void* rates, i32 nesterov, f64 count);
PSI_API i32 psi_unit_norm_ref(void* y, const void* x, i32 batch, f64 count, f64 eps);
PSI_API i32 psi_muon_update_ref(void* p, const void* y, const void* factor, const void* rates, f64 count, f64 scale, f64 decay);
