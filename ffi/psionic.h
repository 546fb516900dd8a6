/*
 * The C ABI of psionic's kernel libraries; every backend exports the same symbols.
 *
 * Order of arguments: pointers (outputs, inputs, scratch), then sizes as i32, then scalars. Sizes that may pass 2^31
 * travel as f64. A function returns a status and never exits, prints or throws; psi_last_error() has the text of the
 * calling thread's last failure. Activations are f32. Weights of `psi_matmul`, `psi_moe_matmul` are in panel layout,
 * made by `psi_pack` (type code = dtype id + PSI_PACKED); `psi_embedding` takes either layout.
 *
 * The prototypes below are read by a test and compared with the op table in src/ir/ops.
 */
#pragma once
#include <stdint.h>

#ifdef __cplusplus
#define PSI_API extern "C" __attribute__((visibility("default")))
#else
#define PSI_API __attribute__((visibility("default")))
#endif

typedef int32_t i32;
typedef float f32;
typedef double f64;

#define PSI_ABI_VERSION 1

/* status */
#define PSI_OK 0
#define PSI_INVALID 1      /* an argument is out of contract */
#define PSI_UNSUPPORTED 2  /* understood and declined */
#define PSI_NO_MEMORY 3
#define PSI_IO 4           /* errno text in psi_last_error */
#define PSI_FAILED 5       /* the device reports failed work and cannot go on */

/* dtype ids are ggml's (src/core/dtype.ts); a packed weight has this bit set */
#define PSI_PACKED 256
/* CPU, products with packed weights of block types: activations are rounded to 16 bits (two products of bytes), not to 8 */
#define PSI_A16 512

/* ---- device ---- */
PSI_API i32 psi_abi_version(void);
PSI_API const char* psi_last_error(void);
/* threads: 0 = one per physical core this process may use. isa: "" = best, or plain|avx2|avx_vnni|avx512|amx|neon to force lower. */
PSI_API i32 psi_open(const char* isa, i32 threads);
PSI_API i32 psi_close(void);
/* Writes "key=value\n" lines (isa, threads, features, numa_nodes, ...), NUL-terminated, cut at `capacity`. */
PSI_API i32 psi_info(void* out, i32 capacity);
/* *address gets (as a pointer) a 64-byte aligned (huge-page advised when large) zero-filled block; first touch, but of a few pages of a large one, is left to the caller. */
PSI_API i32 psi_alloc(void* address, f64 bytes);
PSI_API i32 psi_free(void* address, f64 bytes);
PSI_API i32 psi_copy(void* destination, const void* source, f64 bytes);
/*
 * Only where device memory is not host memory (CUDA). psi_open takes isa "" and, as `threads`, the number of the device.
 * Work is enqueued in order; psi_download and psi_synchronize wait for all of it and report its failures.
 */
PSI_API i32 psi_upload(void* destination, const void* host_source, f64 bytes);
PSI_API i32 psi_download(void* host_destination, const void* source, f64 bytes);
PSI_API i32 psi_synchronize(void);
/* Only on CUDA: a copy of up to 256 KiB that psi_fetched waits for, while work enqueued behind it goes on. *ticket gets its
   number as f64; of the fetches only the last 16 can still be had. */
PSI_API i32 psi_fetch(void* ticket, const void* source, f64 bytes);
PSI_API i32 psi_fetched(void* host_destination, f64 ticket, f64 bytes);
/* f64 outputs: bytes free and in all */
PSI_API i32 psi_device_memory(void* available, void* total);
/* Between begin and end calls are recorded instead of run; *graph gets (as a pointer) what psi_graph_launch runs again.
   Allocations and copies from or to the host fail meanwhile. */
PSI_API i32 psi_capture_begin(void);
PSI_API i32 psi_capture_end(void* graph);
PSI_API i32 psi_graph_launch(void* graph);
PSI_API i32 psi_graph_free(void* graph);
/* Only on CUDA: sums over one process a device through NCCL, loaded from `path` ("": libnccl.so.2). id has 128 bytes, made by
   one process and known to all, which open the group at the same time. psi_all_reduce works in place, F32 or F64. */
PSI_API i32 psi_collective_id(void* id, const char* path);
PSI_API i32 psi_collective_open(const void* id, const char* path, i32 rank, i32 ranks);
PSI_API i32 psi_all_reduce(void* data, i32 dtype, f64 count);
PSI_API i32 psi_collective_close(void);
/* Only on CUDA: cuBLASLt, loaded from `path` ("": libcublasLt.so.13, else .12), for products of psi_gemm with bf16 factors and
   without bias. *version (f64): 10000 major + 100 minor + patch. PSI_UNSUPPORTED where there is none: nothing needs it. */
PSI_API i32 psi_cublaslt_open(const char* path, void* version);
/* *algorithm (64 bytes): the first that cuBLASLt advises for a shape of those that add up all of k in one sequence; it means
   the same to this version of the library alone. scratch_bytes: what psi_gemm will be given. */
PSI_API i32 psi_cublaslt_find(void* algorithm, i32 batch, i32 m, i32 n, i32 k, i32 trans_a, i32 trans_b, i32 c_type, f64 scratch_bytes);
/* From now on psi_gemm makes products of this shape by that algorithm, until psi_cublaslt_close or psi_close; NULL: by the
   kernels of this library. Steps that were captured before stay as they were. */
PSI_API i32 psi_cublaslt_use(const void* algorithm, i32 batch, i32 m, i32 n, i32 k, i32 trans_a, i32 trans_b, i32 c_type, f64 scratch_bytes);
PSI_API i32 psi_cublaslt_close(void);
/* Maps a file read-only; address and bytes are f64 outputs. */
PSI_API i32 psi_map(void* address, void* bytes, const char* path);
PSI_API i32 psi_unmap(void* address, f64 bytes);
/* Only on Metal: `bytes` at `address`, inside of a mapping that psi_map made, are read where they lie from now on, until
   psi_disown of the mapping. */
PSI_API i32 psi_adopt(const void* mapping, f64 mapping_bytes, const void* address, f64 bytes);
PSI_API i32 psi_disown(const void* mapping);
/* Only on Metal: with `on` 1 each launch is a command buffer of its own, whose time on the GPU is kept by the kernel's name,
   from zero; 0 ends it. Work goes slower meanwhile. psi_launch_times writes a line "kernel<TAB>launches<TAB>seconds" for
   each kernel up to now; seconds is "-" where the GPU did not tell a time for all of them. */
PSI_API i32 psi_measure_launches(i32 on);
PSI_API i32 psi_launch_times(void* out, i32 capacity);
/* Only on Metal: names of this library's functions, one a line. */
PSI_API const char* psi_symbols(void);
/* advice: 0 = will need, 1 = drop these pages from the resident set (the file keeps the data) */
PSI_API i32 psi_advise(void* address, f64 bytes, i32 advice);
/* Roofline of this machine with the open thread count: GB/s of a streaming read over `bytes`, integer Gop/s of the
   8-bit dot-product path, f32 Gflop/s. Outputs are f64. On CUDA: GB/s read and written by a copy inside the device's
   memory; the other two are 0. */
PSI_API i32 psi_measure(void* read_gb_s, void* int8_gop_s, void* f32_gflop_s, f64 bytes);
/* Only on CUDA: bf16 Tflop/s of the tensor cores, from registers and shared memory; an f64 output. */
PSI_API i32 psi_measure_tensor(void* bf16_tflop_s);

/* ---- weights ---- */
/* File layout [rows, columns], in host memory, to panels of 16 rows; destination has psi_packed_bytes(...) bytes. */
PSI_API i32 psi_pack(void* destination, const void* source, i32 rows, i32 columns, i32 dtype);
/* The same for a matrix that begins `offset` bytes into a file. Panels (16 rows in file layout) of more than 256 KiB are
   PSI_UNSUPPORTED. */
PSI_API i32 psi_pack_file(void* destination, const char* path, i32 rows, i32 columns, i32 dtype, f64 offset);
/* f64 output: bytes of a packed matrix */
PSI_API i32 psi_packed_bytes(void* bytes, i32 rows, i32 columns, i32 dtype);
/* y f32 [rows, columns] from file layout, bit for bit ggml's dequantisation */
PSI_API i32 psi_dequantize(void* y, const void* x, i32 rows, i32 columns, i32 dtype);
/* reference quantiser: x f32 [rows, columns] to file layout */
PSI_API i32 psi_quantize(void* y, const void* x, i32 rows, i32 columns, i32 dtype);

/* ---- ops ---- */
/* Where a function takes `scratch`, the rule for its size stands beside it (bytes, an upper bound); none needed: NULL, 0.
   Packed weights are aligned to 64 bytes and passed as dtype | PSI_PACKED. */
/* y[t,n] = sum_k x[t,k] w[n,k] (+ bias[n]). x f32 [rows,columns], w packed [outputs,columns], bias f32 or NULL; for F64
   weights x, y and bias are f64 (reference loops). Scratch: X(rows) + 64, 0 for F32 and F64 (and, on the CPU, F16
   and BF16), with X(n) = n*ceil(columns/64)*256 for F16 and BF16, which CUDA multiplies by x in two parts, else n*columns*2,
   twice that with PSI_A16. */
PSI_API i32 psi_matmul(void* y, const void* x, const void* w, const void* bias, void* scratch, i32 rows, i32 outputs, i32 columns, i32 dtype, f64 scratch_bytes);
/* CUDA. y[t,n] = act(gate, up) with gate = x[t] . w[n] (+ bias[n]) and up the same of row features + n: the bits of psi_matmul and
   psi_glu, whose kinds these are. w packed [2*features,columns], not F32. Scratch: psi_matmul's + 64 + rows*features*8. */
PSI_API i32 psi_matmul_glu(void* y, const void* x, const void* w, const void* bias, void* scratch, i32 rows, i32 features, i32 columns, i32 dtype, i32 kind, f32 alpha, f32 limit, f64 scratch_bytes);
/* y[s,n] = x[row(s)] . w[e(s)][n] (+ bias[e(s),n]) for slots s = token*used + j; row(s) = s if x_per_slot, else token.
   w: `experts` packed matrices one after the other. expert_ids i32 [tokens,used].
   Scratch: X(inputs) (psi_matmul) + 64 + 4*(tokens*used + 3*experts + 16), inputs = tokens*used if x_per_slot, else tokens. */
PSI_API i32 psi_moe_matmul(void* y, const void* x, const void* w, const void* bias, const void* expert_ids, void* scratch, i32 tokens, i32 used, i32 experts, i32 outputs, i32 columns, i32 dtype, i32 x_per_slot, f64 scratch_bytes);
/* CUDA and Metal. y[s,n] = act(gate, up) as psi_glu makes it, of gate = x[token] . w[e(s)][n] (+ bias[e(s),n]) and up, the
   same for row features + n: the bits of psi_moe_matmul and psi_glu. w: `experts` packed matrices [2*features, columns],
   features a multiple of 16; y f32 [tokens*used, features]. Scratch: that of psi_moe_matmul. */
PSI_API i32 psi_moe_glu(void* y, const void* x, const void* w, const void* bias, const void* expert_ids, void* scratch, i32 tokens, i32 used, i32 experts, i32 features, i32 columns, i32 dtype, i32 kind, f32 alpha, f32 limit, f64 scratch_bytes);
/* Top-k routing. logits f32 [tokens,experts]; bias f32 [experts] or NULL is added for choosing only.
   mode 1: softmax over all then top-k; 2: sigmoid; 3: top-k then softmax. Ties take the lower index; order descending.
   expert_scale f32 [experts] or NULL multiplies the weights at the end. */
PSI_API i32 psi_router(void* expert_ids, void* weights, const void* logits, const void* bias, const void* expert_scale, i32 tokens, i32 experts, i32 used, i32 mode, i32 normalize, f32 scale);
/* CUDA and Metal, for few rows. sum = x + delta (sum may be x); y = RMS norm of sum times w; expert_ids, weights by psi_router
   of the logits y . router_w (+ router_bias): the bits of psi_add_rms_norm, psi_matmul and psi_router. router_w f32
   [experts,width], width 516 to 4096 in fours; at most 64 rows and 1024 experts, on Metal no more experts than columns. */
PSI_API i32 psi_add_norm_router(void* sum, void* y, void* expert_ids, void* weights, const void* x, const void* delta, const void* w, const void* router_w, const void* router_bias, i32 rows, i32 width, i32 experts, i32 used, i32 mode, i32 normalize, f32 eps, f32 scale);
/* y[t] = sum_j weights[t,j] x[t*used+j], in order of j */
PSI_API i32 psi_moe_combine(void* y, const void* x, const void* weights, i32 tokens, i32 used, i32 width);
/* CUDA and Metal. y[t] = base[t] + the above: the bits of psi_moe_combine and psi_add. y may be base. */
PSI_API i32 psi_moe_combine_add(void* y, const void* base, const void* x, const void* weights, i32 tokens, i32 used, i32 width);
/* CUDA and Metal. sum[t] = base[t] + the above, y = RMS norm of sum times w [width]: the bits of psi_moe_combine_add and
   psi_rms_norm. sum may be base. */
PSI_API i32 psi_moe_combine_norm(void* sum, void* y, const void* base, const void* x, const void* weights, const void* w, i32 tokens, i32 used, i32 width, f32 eps);
/* CUDA. The same with a shared expert: sum[t] = base[t] + the above, then + sigmoid(b[t] . gate_w) * shared[t]; y = RMS norm of sum
   times w: the bits of psi_moe_combine_add, psi_matmul over the F32 gate_w [1,width], psi_add_gated and psi_rms_norm. b and
   shared f32 [tokens,width]; width 516 to 4096 in fours. sum may be base. */
PSI_API i32 psi_moe_combine_shared_norm(void* sum, void* y, const void* base, const void* x, const void* weights, const void* shared, const void* b, const void* gate_w, const void* w, i32 tokens, i32 used, i32 width, f32 eps);
/* For each row and group g: RMS norm of x[row*stride + offset + g*width ...]; w f32 [width] or NULL; y has x's layout. */
PSI_API i32 psi_rms_norm(void* y, const void* x, const void* w, i32 rows, i32 stride, i32 offset, i32 groups, i32 width, f32 eps);
/* sum = x + delta; y = RMS norm of sum. sum may be x. */
PSI_API i32 psi_add_rms_norm(void* sum, void* y, const void* x, const void* delta, const void* w, i32 rows, i32 width, f32 eps);
/* CUDA. sum = (x + RMS norm of delta times w) * scale; y = RMS norm of sum times next (next NULL: no y): the bits of psi_rms_norm,
   psi_add_scaled and psi_rms_norm. sum may be x. width up to 8192 in fours. */
PSI_API i32 psi_norm_add_norm(void* sum, void* y, const void* x, const void* delta, const void* w, const void* next, i32 rows, i32 width, f32 eps, f32 scale);
/* CUDA. The same for delta = RMS norm of dense times dense_w + RMS norm of e times experts_w, e[t] = sum_j weights[t,j]
   experts[t*used+j] in order of j: the bits of psi_moe_combine, three psi_rms_norm, psi_add and the above. width up to 4096 in fours. */
PSI_API i32 psi_add_branches_norm(void* sum, void* y, const void* x, const void* dense, const void* experts, const void* weights, const void* dense_w, const void* experts_w, const void* w, const void* next, i32 tokens, i32 used, i32 width, f32 eps, f32 scale);
/* CUDA, for few rows. sum = x + RMS norm of delta times w (sum may be x); y and z: RMS norms of sum times y_w and z_w; expert_ids
   and weights by psi_router of the logits r . router_w, r being the RMS norm of sum times r_w: the bits of those one after the
   other. router_w f32 [experts,width], width 516 to 4096 in fours; at most 64 rows and 1024 experts. */
PSI_API i32 psi_norm_add_norms_router(void* sum, void* y, void* z, void* expert_ids, void* weights, const void* x, const void* delta, const void* w, const void* y_w, const void* z_w, const void* r_w, const void* router_w, const void* expert_scale, i32 rows, i32 width, i32 experts, i32 used, i32 mode, i32 normalize, f32 eps, f32 scale);
/* Rotates heads in place: x[row*stride + offset + h*head_dim ...]; inv_freq f32 [rotary_dims/2]; angle = f32(position) *
   inv_freq; neox 0: pairs (2i, 2i+1), 1: pairs (i, i + rotary_dims/2). cos and sin are multiplied by mscale. */
PSI_API i32 psi_rope(void* x, const void* positions, const void* inv_freq, i32 rows, i32 stride, i32 offset, i32 heads, i32 head_dim, i32 rotary_dims, i32 neox, f32 mscale);
/* y = act(gate) * up. kind 0: silu; 1: gelu (tanh form); 2: GPT-OSS clamped: g=min(gate,limit), u=clamp(up,+-limit),
   g*sigmoid(alpha*g)*(u+1). gate and up are rows of `gate_stride`, `up_stride` elements. */
PSI_API i32 psi_glu(void* y, const void* gate, const void* up, i32 rows, i32 width, i32 gate_stride, i32 up_stride, i32 kind, f32 alpha, f32 limit);
/* y[t] = scale * table[ids[t]]; table [vocabulary,width], any dtype, file layout or packed (dtype | PSI_PACKED). */
PSI_API i32 psi_embedding(void* y, const void* table, const void* ids, i32 tokens, i32 width, i32 vocabulary, i32 dtype, f32 scale);
PSI_API i32 psi_add(void* y, const void* a, const void* b, f64 count);
/* y = (a + b) * scale; y may be a or b */
PSI_API i32 psi_add_scaled(void* y, const void* a, const void* b, f64 count, f32 scale);
/* y[r] = x[index[r]] */
PSI_API i32 psi_gather_rows(void* y, const void* x, const void* index, i32 rows, i32 width, i32 source_rows);
/* y = cap * tanh(x / cap) */
PSI_API i32 psi_softcap(void* y, const void* x, f64 count, f32 cap);
/* ids i32 [rows]: position of the largest value; the lowest on ties; NaN never wins */
PSI_API i32 psi_argmax(void* ids, const void* x, i32 rows, i32 width);
/* values f32, ids i32 [rows,k], descending, the lower id first on ties */
PSI_API i32 psi_top_k(void* values, void* ids, const void* x, i32 rows, i32 width, i32 k);
/* y f32 [rows]: log(sum(exp(x[r,:]))) */
PSI_API i32 psi_log_sum_exp(void* y, const void* x, i32 rows, i32 width);
/* CUDA and Metal. ids i32 and logprobs f32 [count], a token for each record (80 bytes) from its row of logits f32
   [rows,width]; entries (24 bytes) change logits, masks i32 [mask_count, ceil(width/32)] forbid tokens whose bit is 0.
   Layouts, and what the token is: src/ir/ops/sample.ts. Logits are changed meanwhile and put back. all_greedy: no record
   draws. Scratch: count*59408 + 4*entry_count. */
PSI_API i32 psi_sample(void* ids, void* logprobs, void* logits, const void* records, const void* entries, const void* masks, void* scratch, i32 count, i32 rows, i32 width, i32 entry_count, i32 mask_count, i32 all_greedy, f64 scratch_bytes);

/*
 * Paged cache. A page holds `page_size` (a multiple of 16) consecutive positions of one sequence in one layer:
 *   keys   [kv_heads][page_size/16][head_dim][16]   (transposed in tiles of 16 positions)
 *   values [kv_heads][page_size][head_dim]
 * with elements of cache_type f32, f16, bf16, or q8_0: int8 in the same places, followed, for the whole page, by f16
 * scales: keys [kv_heads][page_size/16][head_dim/32][16], values [kv_heads][page_size][head_dim/32].
 * On CUDA keys lie as values do: [kv_heads][page_size][head_dim], scales [kv_heads][page_size][head_dim/32].
 * page_table i32 [sequences, max_pages]: physical page of each logical page; entries outside the window may be -1. CUDA
 * cannot refuse by what these arrays hold: there a token of sequence or page -1 is not written, and sees nothing.
 */
PSI_API i32 psi_kv_write(void* k_cache, void* v_cache, const void* k, const void* v, const void* page_table, const void* token_sequence, const void* token_position, i32 tokens, i32 k_stride, i32 k_offset, i32 v_stride, i32 v_offset, i32 kv_heads, i32 head_dim, i32 page_size, i32 max_pages, i32 cache_type);
/* CUDA and Metal. psi_rope of q in place and of k on its way into the cache, psi_kv_write of the latter and v: the same bits.
   k and v stay as they are. */
PSI_API i32 psi_rope_kv_write(void* q, void* k_cache, void* v_cache, const void* k, const void* v, const void* page_table, const void* token_sequence, const void* token_position, const void* inv_freq, i32 tokens, i32 q_stride, i32 q_offset, i32 heads, i32 k_stride, i32 k_offset, i32 v_stride, i32 v_offset, i32 kv_heads, i32 head_dim, i32 page_size, i32 max_pages, i32 cache_type, i32 rotary_dims, i32 neox, f32 mscale);
/* CUDA. The same after RMS norms of the heads of q times q_norm [head_dim], of k times k_norm and, where norm_values is 1, of v: the
   bits of psi_rms_norm and the above. k and v NULL: queries alone. head_dim up to 512. */
PSI_API i32 psi_norm_rope_kv_write(void* q, void* k_cache, void* v_cache, const void* k, const void* v, const void* q_norm, const void* k_norm, const void* page_table, const void* token_sequence, const void* token_position, const void* inv_freq, i32 tokens, i32 q_stride, i32 q_offset, i32 heads, i32 k_stride, i32 k_offset, i32 v_stride, i32 v_offset, i32 kv_heads, i32 head_dim, i32 page_size, i32 max_pages, i32 cache_type, i32 rotary_dims, i32 neox, i32 norm_values, f32 mscale, f32 eps);
/* Causal attention of each token over positions 0..token_position of its sequence; window > 0: the last `window`
   positions only, its own included. sinks f32 [heads] or NULL. softcap 0 = none. q f32 rows of q_stride with head h at
   q_offset + h*head_dim; y f32 [tokens, heads*head_dim]. Scores are reduced over key chunks cut at absolute positions,
   so a token's result does not depend on what else is in the batch.
   scratch: min(tokens, 4) * heads * ceil(max_pages * page_size / 64) * (head_dim + 2) * 4 bytes; for head_dim above 128 and 5 to
   16 tokens tokens * heads * tiles * (head_dim + 2) * 4 where that is more, but at most 64 MiB, tiles being those of 64
   positions that a token may see. */
PSI_API i32 psi_attention(void* y, const void* q, const void* k_cache, const void* v_cache, const void* page_table, const void* token_sequence, const void* token_position, const void* sinks, void* scratch, i32 tokens, i32 q_stride, i32 q_offset, i32 heads, i32 kv_heads, i32 head_dim, i32 page_size, i32 max_pages, i32 window, i32 cache_type, f32 scale, f32 softcap, f64 scratch_bytes);

/*
 * Gated DeltaNet layers (arXiv:2412.06464) over a flat batch. Tokens of a sequence stand together, positions ascending by
 * one. sequence_slot i32 [sequences] is the place of each sequence's state, all different; token_sequence indexes it. A
 * sequence whose first token in the batch has position 0 begins from zeros, whatever its slot holds. The state is left
 * as it is after the sequence's last token: the bits of a token do not depend on how tokens are spread over calls. CUDA
 * cannot refuse by what these arrays hold: there a sequence without a slot begins from zeros and keeps nothing.
 */
/* y f32 [tokens,channels] = silu(sum_j w[c,j] x[t-taps+1+j,c]), j ascending, taps 2..8; x f32 rows of x_stride with the
   channels from x_offset; w f32 [channels,taps]; state f32 [slots,taps-1,channels]: the last inputs, oldest first. */
PSI_API i32 psi_causal_conv1d(void* y, void* state, const void* x, const void* w, const void* token_sequence, const void* token_position, const void* sequence_slot, i32 tokens, i32 x_stride, i32 x_offset, i32 channels, i32 taps, i32 sequences, i32 slots);
/* For each value head, with S f32 [key_dim,value_dim] of state f32 [slots,value_heads,key_dim,value_dim]:
     S = exp(decay * softplus(a + dt_bias)) S; S += k (sigmoid(b) (v - S^T k))^T; y = S^T q
   q and k are first multiplied by 1/sqrt(sum of squares + 1e-6), q also by 1/sqrt(key_dim). qkv f32 rows of `stride`: q and
   k [key_heads,key_dim] at q_offset and k_offset, v [value_heads,value_dim] at v_offset; a and b f32 rows with value_heads
   from their offsets; decay (-exp(A_log)) and dt_bias f32 [value_heads]; y f32 [tokens, value_heads*value_dim].
   tiled 1: value head h has key head h % key_heads, 0: h / (value_heads / key_heads). key_dim up to 256. */
PSI_API i32 psi_gated_delta_rule(void* y, void* state, const void* qkv, const void* a, const void* b, const void* decay, const void* dt_bias, const void* token_sequence, const void* token_position, const void* sequence_slot, i32 tokens, i32 stride, i32 q_offset, i32 k_offset, i32 v_offset, i32 a_stride, i32 a_offset, i32 b_stride, i32 b_offset, i32 key_heads, i32 value_heads, i32 key_dim, i32 value_dim, i32 sequences, i32 slots, i32 tiled);
/* CUDA, in the place of that. The same by chunks of 16 tokens, cut at multiples of 16 of the positions: state f32 [slots,value_heads,rows,value_dim], of a
   head S as it was before the chunk, then of the chunk's tokens so far what they add to it and their k and decays, rows =
   key_dim + 16 + ceil(16 * (key_dim + 1) / value_dim). At positions that are multiples of 16 S alone counts. key_dim in fours up
   to 128, value_dim in 32s. */
PSI_API i32 psi_gated_delta_chunks(void* y, void* state, const void* qkv, const void* a, const void* b, const void* decay, const void* dt_bias, const void* token_sequence, const void* token_position, const void* sequence_slot, i32 tokens, i32 stride, i32 q_offset, i32 k_offset, i32 v_offset, i32 a_stride, i32 a_offset, i32 b_stride, i32 b_offset, i32 key_heads, i32 value_heads, i32 key_dim, i32 value_dim, i32 sequences, i32 slots, i32 tiled);
/* y = x / sqrt(mean(x^2) + eps) * w * silu(gate) over heads of `width`: x, y f32 [rows, heads*width], w f32 [width], gate
   f32 rows of gate_stride with its heads one after the other from gate_offset. y may be x. */
PSI_API i32 psi_rms_norm_gated(void* y, const void* x, const void* gate, const void* w, i32 rows, i32 heads, i32 width, i32 gate_stride, i32 gate_offset, f32 eps);
/* CUDA, for generation. psi_causal_conv1d of q, k [key_heads,key_dim] and v [value_heads,value_dim], which stand one after the
   other from `offset` in rows of `stride`, psi_gated_delta_chunks of the result, psi_rms_norm_gated of that by norm_w [value_dim]
   and the gate z: the bits of the three. taps_state and state as there, taps 2..4; a sequence may have several tokens, which
   take their time. value_dim 32, 64, 96 or 128, key_dim in fours up to 128 and 1.5 value_dim; at most 64 tokens, sequences and
   key heads. */
PSI_API i32 psi_gated_delta_step(void* y, void* taps_state, void* state, const void* qkv, const void* z, const void* a, const void* b, const void* conv_w, const void* decay, const void* dt_bias, const void* norm_w, const void* token_sequence, const void* token_position, const void* sequence_slot, i32 tokens, i32 stride, i32 offset, i32 z_stride, i32 z_offset, i32 a_stride, i32 a_offset, i32 b_stride, i32 b_offset, i32 key_heads, i32 value_heads, i32 key_dim, i32 value_dim, i32 taps, i32 sequences, i32 slots, i32 tiled, f32 eps);
/* y = x * sigmoid(gate): x, y f32 [rows, heads*width]; the gate of head h from gate_offset + h*head_stride of rows of
   gate_stride. y may be x. */
PSI_API i32 psi_sigmoid_gate(void* y, const void* x, const void* gate, i32 rows, i32 heads, i32 width, i32 gate_stride, i32 gate_offset, i32 head_stride);
/* y[t] = base[t] + sigmoid(gate[t]) x[t]: base, x, y f32 [rows,width], gate f32 [rows]. y may be base or x. */
PSI_API i32 psi_add_gated(void* y, const void* base, const void* x, const void* gate, i32 rows, i32 width);

/*
 * ---- references ----
 * Plain loops with sums in f64, for tests and gradient checks. They work without psi_open, ignore scratch, and take
 * weights in file layout (dtype) or packed (dtype | PSI_PACKED).
 */
PSI_API i32 psi_dequantize_ref(void* y, const void* x, i32 rows, i32 columns, i32 dtype);
PSI_API i32 psi_matmul_ref(void* y, const void* x, const void* w, const void* bias, void* scratch, i32 rows, i32 outputs, i32 columns, i32 dtype, f64 scratch_bytes);
PSI_API i32 psi_moe_matmul_ref(void* y, const void* x, const void* w, const void* bias, const void* expert_ids, void* scratch, i32 tokens, i32 used, i32 experts, i32 outputs, i32 columns, i32 dtype, i32 x_per_slot, f64 scratch_bytes);
PSI_API i32 psi_embedding_ref(void* y, const void* table, const void* ids, i32 tokens, i32 width, i32 vocabulary, i32 dtype, f32 scale);
PSI_API i32 psi_router_ref(void* expert_ids, void* weights, const void* logits, const void* bias, const void* expert_scale, i32 tokens, i32 experts, i32 used, i32 mode, i32 normalize, f32 scale);
PSI_API i32 psi_moe_combine_ref(void* y, const void* x, const void* weights, i32 tokens, i32 used, i32 width);
PSI_API i32 psi_rms_norm_ref(void* y, const void* x, const void* w, i32 rows, i32 stride, i32 offset, i32 groups, i32 width, f32 eps);
/* the same over f64 data */
PSI_API i32 psi_rms_norm_ref_f64(void* y, const void* x, const void* w, i32 rows, i32 stride, i32 offset, i32 groups, i32 width, f32 eps);
PSI_API i32 psi_add_rms_norm_ref(void* sum, void* y, const void* x, const void* delta, const void* w, i32 rows, i32 width, f32 eps);
PSI_API i32 psi_rope_ref(void* x, const void* positions, const void* inv_freq, i32 rows, i32 stride, i32 offset, i32 heads, i32 head_dim, i32 rotary_dims, i32 neox, f32 mscale);
/* the same over f64 data */
PSI_API i32 psi_rope_ref_f64(void* x, const void* positions, const void* inv_freq, i32 rows, i32 stride, i32 offset, i32 heads, i32 head_dim, i32 rotary_dims, i32 neox, f32 mscale);
PSI_API i32 psi_glu_ref(void* y, const void* gate, const void* up, i32 rows, i32 width, i32 gate_stride, i32 up_stride, i32 kind, f32 alpha, f32 limit);
/* the same over f64 data */
PSI_API i32 psi_glu_ref_f64(void* y, const void* gate, const void* up, i32 rows, i32 width, i32 gate_stride, i32 up_stride, i32 kind, f32 alpha, f32 limit);
PSI_API i32 psi_add_ref(void* y, const void* a, const void* b, f64 count);
PSI_API i32 psi_add_scaled_ref(void* y, const void* a, const void* b, f64 count, f32 scale);
PSI_API i32 psi_gather_rows_ref(void* y, const void* x, const void* index, i32 rows, i32 width, i32 source_rows);
PSI_API i32 psi_softcap_ref(void* y, const void* x, f64 count, f32 cap);
PSI_API i32 psi_argmax_ref(void* ids, const void* x, i32 rows, i32 width);
PSI_API i32 psi_top_k_ref(void* values, void* ids, const void* x, i32 rows, i32 width, i32 k);
PSI_API i32 psi_log_sum_exp_ref(void* y, const void* x, i32 rows, i32 width);
PSI_API i32 psi_kv_write_ref(void* k_cache, void* v_cache, const void* k, const void* v, const void* page_table, const void* token_sequence, const void* token_position, i32 tokens, i32 k_stride, i32 k_offset, i32 v_stride, i32 v_offset, i32 kv_heads, i32 head_dim, i32 page_size, i32 max_pages, i32 cache_type);
PSI_API i32 psi_attention_ref(void* y, const void* q, const void* k_cache, const void* v_cache, const void* page_table, const void* token_sequence, const void* token_position, const void* sinks, void* scratch, i32 tokens, i32 q_stride, i32 q_offset, i32 heads, i32 kv_heads, i32 head_dim, i32 page_size, i32 max_pages, i32 window, i32 cache_type, f32 scale, f32 softcap, f64 scratch_bytes);
PSI_API i32 psi_causal_conv1d_ref(void* y, void* state, const void* x, const void* w, const void* token_sequence, const void* token_position, const void* sequence_slot, i32 tokens, i32 x_stride, i32 x_offset, i32 channels, i32 taps, i32 sequences, i32 slots);
PSI_API i32 psi_gated_delta_rule_ref(void* y, void* state, const void* qkv, const void* a, const void* b, const void* decay, const void* dt_bias, const void* token_sequence, const void* token_position, const void* sequence_slot, i32 tokens, i32 stride, i32 q_offset, i32 k_offset, i32 v_offset, i32 a_stride, i32 a_offset, i32 b_stride, i32 b_offset, i32 key_heads, i32 value_heads, i32 key_dim, i32 value_dim, i32 sequences, i32 slots, i32 tiled);
PSI_API i32 psi_rms_norm_gated_ref(void* y, const void* x, const void* gate, const void* w, i32 rows, i32 heads, i32 width, i32 gate_stride, i32 gate_offset, f32 eps);
PSI_API i32 psi_sigmoid_gate_ref(void* y, const void* x, const void* gate, i32 rows, i32 heads, i32 width, i32 gate_stride, i32 gate_offset, i32 head_stride);
PSI_API i32 psi_add_gated_ref(void* y, const void* base, const void* x, const void* gate, i32 rows, i32 width);
