/** Qwen3.5 in plain f64 loops, token by token, from the tensors of a GGUF file: nothing of it is shared with the product. */
import type { ModelShape } from "../../../scripts/random-model.ts";

type Vector = number[];
/** Values of a tensor by its GGUF name; matrices row by row. */
export type Tensors = (name: string) => Float32Array;

const eps = 1e-6;
const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));
const silu = (x: number): number => x * sigmoid(x);
const dot = (a: Vector, b: Vector): number => a.reduce((sum, x, i) => sum + x * b[i]!, 0);
const plus = (a: Vector, b: Vector): Vector => a.map((x, i) => x + b[i]!);

function rms(x: Vector, w: Float32Array): Vector {
  const scale = 1 / Math.sqrt(dot(x, x) / x.length + eps);
  return x.map((v, i) => v * scale * w[i]!);
}

/** Row by row: w [N, K] x [K]; `from` is the first row, `rows` how many. */
function times(w: Float32Array, x: Vector, from = 0, rows = w.length / x.length - from): Vector {
  return Array.from({ length: rows }, (_, r) => {
    let sum = 0;
    for (let i = 0; i < x.length; i++) sum += w[(from + r) * x.length + i]! * x[i]!;
    return sum;
  });
}

const slice = (x: Vector, head: number, width: number): Vector => x.slice(head * width, (head + 1) * width);

/** Logits [T][V]; value head v of the recurrent layers reads key head v mod key heads. */
export function qwen35Logits(s: ModelShape, tensors: Tensors, ids: readonly number[]): Vector[] {
  const embedding = tensors("token_embd.weight");
  let h = ids.map((id) => [...embedding.subarray(id * s.width, (id + 1) * s.width)]);
  for (let i = 0; i < s.layers; i++) {
    const get = (part: string): Float32Array => tensors(`blk.${i}.${part}`);
    const a = h.map((x) => rms(x, get("attn_norm.weight")));
    const mixed = (i + 1) % 4 === 0 ? fullAttention(s, get, a) : deltaRule(s, get, a);
    h = h.map((x, t) => plus(x, mixed[t]!));
    h = h.map((x) => plus(x, mlp(s, get, rms(x, get("post_attention_norm.weight")))));
  }
  const head = tensors(s.tied ? "token_embd.weight" : "output.weight");
  return h.map((x) => times(head, rms(x, tensors("output_norm.weight"))));
}

function fullAttention(s: ModelShape, get: Tensors, a: Vector[]): Vector[] {
  const { heads, kvHeads, headDim: e } = s;
  const pairs = s.qwen35!.rotaryDims / 2;
  const rotate = (x: Vector, position: number): Vector => {
    const out = [...x];
    for (let p = 0; p < pairs; p++) {
      const angle = position * s.ropeBase ** (-p / pairs);
      const [u, v] = [x[p]!, x[p + pairs]!];
      out[p] = u * Math.cos(angle) - v * Math.sin(angle);
      out[p + pairs] = u * Math.sin(angle) + v * Math.cos(angle);
    }
    return out;
  };
  const keys = a.map((x, t) => {
    const all = times(get("attn_k.weight"), x);
    return Array.from({ length: kvHeads }, (_, k) =>
      rotate(rms(slice(all, k, e), get("attn_k_norm.weight")), t),
    );
  });
  const values = a.map((x) => times(get("attn_v.weight"), x));
  return a.map((x, t) => {
    const both = times(get("attn_q.weight"), x); // per head its queries, then its gates
    const results = Array.from({ length: heads }, (_, n) => {
      const q = rotate(rms(slice(both, 2 * n, e), get("attn_q_norm.weight")), t);
      const k = Math.floor(n / (heads / kvHeads));
      const scores = keys.slice(0, t + 1).map((key) => dot(q, key[k]!) / Math.sqrt(e));
      const most = Math.max(...scores);
      const weights = scores.map((z) => Math.exp(z - most));
      const sum = weights.reduce((p, w) => p + w, 0);
      const gate = slice(both, 2 * n + 1, e);
      return gate.map(
        (g, c) => sigmoid(g) * weights.reduce((p, w, j) => p + (w / sum) * values[j]![k * e + c]!, 0),
      );
    });
    return times(get("attn_output.weight"), results.flat());
  });
}

function deltaRule(s: ModelShape, get: Tensors, a: Vector[]): Vector[] {
  const { keyHeads, valueHeads, stateDim: e } = s.qwen35!;
  const inputs = a.map((x) => times(get("attn_qkv.weight"), x));
  const conv = get("ssm_conv1d.weight");
  const memory = Array.from({ length: valueHeads }, () => Array.from({ length: e }, () => Array(e).fill(0)));
  return a.map((x, t) => {
    const u = inputs[t]!.map((_, c) => {
      let sum = 0;
      for (let j = 0; j < 4; j++) if (t + j >= 3) sum += conv[4 * c + j]! * inputs[t - 3 + j]![c]!;
      return silu(sum);
    });
    const unit = (v: Vector): Vector => v.map((c) => c / Math.sqrt(dot(v, v) + 1e-6));
    const alpha = times(get("ssm_alpha.weight"), x);
    const beta = times(get("ssm_beta.weight"), x);
    const z = times(get("attn_gate.weight"), x);
    const results = memory.map((S, n) => {
      const q = unit(slice(u, n % keyHeads, e));
      const k = unit(slice(u, keyHeads + (n % keyHeads), e));
      const v = slice(u, 2 * keyHeads + n, e);
      const decay = Math.exp(get("ssm_a")[n]! * Math.log1p(Math.exp(alpha[n]! + get("ssm_dt.bias")[n]!)));
      for (const row of S) for (let j = 0; j < e; j++) row[j] *= decay;
      const change = v.map(
        (c, j) => sigmoid(beta[n]!) * (c - S.reduce((p, row, r) => p + row[j] * k[r]!, 0)),
      );
      for (const [r, row] of S.entries()) for (let j = 0; j < e; j++) row[j] += k[r]! * change[j]!;
      const o = v.map((_, j) => S.reduce((p, row, r) => p + row[j] * q[r]!, 0) / Math.sqrt(e));
      return rms(o, get("ssm_norm.weight")).map((c, j) => c * silu(z[n * e + j]!));
    });
    return times(get("ssm_out.weight"), results.flat());
  });
}

function mlp(s: ModelShape, get: Tensors, b: Vector): Vector {
  const swiglu = (stem: (part: string) => string, expert = 0, f?: number): Vector => {
    const [gate, up] = ["gate", "up"].map((part) => times(get(stem(part)), b, expert * (f ?? 0), f));
    const down = get(stem("down"));
    const x = gate!.map((g, i) => silu(g) * up![i]!);
    return times(down, x, expert * (f ? b.length : 0), b.length);
  };
  if (s.experts === undefined) return swiglu((part) => `ffn_${part}.weight`);
  const scores = times(get("ffn_gate_inp.weight"), b).map((z) => Math.exp(z));
  const chosen = scores
    .map((p, expert) => ({ p, expert }))
    .sort((x, y) => y.p - x.p)
    .slice(0, s.expertsUsed);
  const sum = chosen.reduce((p, c) => p + c.p, 0);
  const shared = swiglu((part) => `ffn_${part}_shexp.weight`);
  const gate = sigmoid(dot([...get("ffn_gate_inp_shexp.weight")], b));
  return chosen.reduce(
    (y, { p, expert }) =>
      plus(
        y,
        swiglu((part) => `ffn_${part}_exps.weight`, expert, s.expertFeedForward).map((v) => (p / sum) * v),
      ),
    shared.map((v) => gate * v),
  );
}
