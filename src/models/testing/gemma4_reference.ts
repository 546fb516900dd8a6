/** Gemma 4's text model in plain f64 loops, from the tensors of a GGUF file: nothing of it is shared with the product. */
import type { ModelShape } from "../../../scripts/random-model.ts";

type Vector = number[];
/** Values of a tensor by its GGUF name, undefined where there is none; matrices row by row. */
export type Tensors = (name: string) => Float32Array | undefined;
type Layer = {
  readonly get: (part: string) => Float32Array;
  readonly has: (part: string) => boolean;
  readonly slides: boolean;
};
/** Per position and key-value head, [T][K][E]. */
type KeysValues = { readonly keys: Vector[][]; readonly values: Vector[][] };

const eps = 1e-6;
const slidingBase = 10000;
const cap = 30;
const dot = (a: Vector, b: Vector): number => a.reduce((sum, x, i) => sum + x * b[i]!, 0);
const plus = (a: Vector, b: Vector): Vector => a.map((x, i) => x + b[i]!);
const gelu = (x: number): number =>
  0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));

function rms(x: Vector, w?: Float32Array): Vector {
  const scale = 1 / Math.sqrt(dot(x, x) / x.length + eps);
  return x.map((v, i) => v * scale * (w ? w[i]! : 1));
}

/** w [N, K] x [K], of `rows` rows from row `from` on. */
function times(w: Float32Array, x: Vector, from = 0, rows = w.length / x.length - from): Vector {
  return Array.from({ length: rows }, (_, r) => {
    let sum = 0;
    for (let i = 0; i < x.length; i++) sum += w[(from + r) * x.length + i]! * x[i]!;
    return sum;
  });
}

const part = (x: Vector, i: number, width: number): Vector => x.slice(i * width, (i + 1) * width);
const split = (x: Vector, width: number): Vector[] =>
  Array.from({ length: x.length / width }, (_, i) => part(x, i, width));

function row(table: Float32Array, id: number, width: number, scale: number): Vector {
  return Array.from(table.subarray(id * width, (id + 1) * width), (x) => x * scale);
}

/** Logits [T][V]; every `globalEvery`-th layer attends to all positions. */
export function gemma4Logits(
  s: ModelShape,
  tensors: Tensors,
  ids: readonly number[],
  globalEvery = 6,
): Vector[] {
  const own = s.gemma4!;
  const needed = (name: string): Float32Array => {
    const values = tensors(name);
    if (!values) throw new Error(`the reference needs ${name}`);
    return values;
  };
  const table = needed("token_embd.weight");
  let h = ids.map((id) => row(table, id, s.width, Math.sqrt(s.width)));
  const inputs = own.perLayerWidth > 0 ? h.map((x, t) => perLayerInputs(s, needed, ids[t]!, x)) : [];
  // What the layers behind the first ones attend to: the last keys and values of their kind.
  const latest = new Map<boolean, KeysValues>();
  for (let i = 0; i < s.layers; i++) {
    const layer: Layer = {
      get: (name) => needed(`blk.${i}.${name}`),
      has: (name) => tensors(`blk.${i}.${name}`) !== undefined,
      slides: (i + 1) % globalEvery !== 0,
    };
    const { get, has } = layer;
    const a = h.map((x) => rms(x, get("attn_norm.weight")));
    if (i < s.layers - own.sharedLayers) latest.set(layer.slides, keysAndValues(s, layer, a));
    const mixed = attention(s, layer, a, latest.get(layer.slides)!);
    h = h.map((x, t) => plus(x, rms(mixed[t]!, get("post_attention_norm.weight"))));
    h = h.map((x) => plus(x, rms(feedForward(s, layer, x), get("post_ffw_norm.weight"))));
    const scale = has("layer_output_scale.weight") ? get("layer_output_scale.weight")[0]! : 1;
    h = h.map((x, t) => (own.perLayerWidth > 0 ? plus(x, perLayer(layer, x, inputs[t]![i]!)) : x));
    h = h.map((x) => x.map((v) => v * scale));
  }
  const head = tensors("output.weight") ?? table;
  return h.map((x) => times(head, rms(x, needed("output_norm.weight"))).map((z) => cap * Math.tanh(z / cap)));
}

/** P of one token, [L][W]: (A + B) / sqrt(2). */
function perLayerInputs(
  s: ModelShape,
  needed: (name: string) => Float32Array,
  id: number,
  h0: Vector,
): Vector[] {
  const w = s.gemma4!.perLayerWidth;
  const looked = row(needed("per_layer_token_embd.weight"), id, s.layers * w, Math.sqrt(w));
  const projected = times(needed("per_layer_model_proj.weight"), h0).map((x) => x / Math.sqrt(s.width));
  const norm = needed("per_layer_proj_norm.weight");
  return split(looked, w).map((a, i) => plus(a, rms(part(projected, i, w), norm)).map((x) => x / Math.SQRT2));
}

function perLayer({ get }: Layer, h: Vector, input: Vector): Vector {
  const gated = times(get("inp_gate.weight"), h).map((g, i) => gelu(g) * input[i]!);
  return rms(times(get("proj.weight"), gated), get("post_norm.weight"));
}

const headDimOf = (s: ModelShape, layer: Layer): number =>
  layer.slides ? s.headDim : s.gemma4!.globalHeadDim;

/** Pairs (p, p + E/2) turn; of a global head only the first quarter of them. */
function rotate(s: ModelShape, layer: Layer, x: Vector, position: number): Vector {
  const half = x.length / 2;
  const base = layer.slides ? slidingBase : s.ropeBase;
  const out = [...x];
  for (let p = 0; p < (layer.slides ? half : half / 4); p++) {
    const angle = position * base ** (-p / half);
    const [u, v] = [x[p]!, x[p + half]!];
    out[p] = u * Math.cos(angle) - v * Math.sin(angle);
    out[p + half] = u * Math.sin(angle) + v * Math.cos(angle);
  }
  return out;
}

/** Without a projection of their own, values are the raw keys. */
function keysAndValues(s: ModelShape, layer: Layer, a: Vector[]): KeysValues {
  const { get, has } = layer;
  const e = headDimOf(s, layer);
  const raw = a.map((x) => split(times(get("attn_k.weight"), x), e));
  const values = has("attn_v.weight") ? a.map((x) => split(times(get("attn_v.weight"), x), e)) : raw;
  return {
    keys: raw.map((heads, t) => heads.map((k) => rotate(s, layer, rms(k, get("attn_k_norm.weight")), t))),
    values: values.map((heads) => heads.map((v) => rms(v))),
  };
}

function attention(s: ModelShape, layer: Layer, a: Vector[], { keys, values }: KeysValues): Vector[] {
  const { get, slides } = layer;
  return a.map((x, t) => {
    const queries = split(times(get("attn_q.weight"), x), headDimOf(s, layer));
    const first = slides ? Math.max(0, t + 1 - s.window!) : 0;
    const results = queries.map((raw, n) => {
      const q = rotate(s, layer, rms(raw, get("attn_q_norm.weight")), t);
      const kv = Math.floor(n / (queries.length / keys[0]!.length));
      const scores = keys.slice(first, t + 1).map((k) => dot(q, k[kv]!));
      const most = Math.max(...scores);
      const weights = scores.map((z) => Math.exp(z - most));
      const sum = weights.reduce((p, w) => p + w, 0);
      return q.map((_, c) => weights.reduce((p, w, j) => p + (w / sum) * values[first + j]![kv]![c]!, 0));
    });
    return times(get("attn_output.weight"), results.flat());
  });
}

/** Of h after attention: the dense MLP, and beside it the experts, where the layer has some. */
function feedForward(s: ModelShape, { get, has }: Layer, h: Vector): Vector {
  const b = rms(h, get("ffn_norm.weight"));
  const up = times(get("ffn_up.weight"), b);
  const inner = times(get("ffn_gate.weight"), b).map((g, i) => gelu(g) * up[i]!);
  const dense = times(get("ffn_down.weight"), inner);
  if (!has("ffn_gate_inp.weight")) return dense;
  return plus(
    rms(dense, get("post_ffw_norm_1.weight")),
    rms(experts(s, get, h), get("post_ffw_norm_2.weight")),
  );
}

function experts(s: ModelShape, get: Layer["get"], h: Vector): Vector {
  const scales = get("ffn_gate_inp.scale");
  const seen = rms(h).map((x, i) => (x / Math.sqrt(s.width)) * scales[i]!);
  const chosen = times(get("ffn_gate_inp.weight"), seen)
    .map((z, expert) => ({ p: Math.exp(z), expert }))
    .sort((x, y) => y.p - x.p)
    .slice(0, s.expertsUsed);
  const sum = chosen.reduce((all, c) => all + c.p, 0);
  const x = rms(h, get("pre_ffw_norm_2.weight"));
  const f = s.expertFeedForward!;
  return chosen.reduce(
    (y, { p, expert }) => {
      const gate = times(get("ffn_gate_up_exps.weight"), x, expert * 2 * f, f);
      const up = times(get("ffn_gate_up_exps.weight"), x, expert * 2 * f + f, f);
      const inner = gate.map((g, i) => gelu(g) * up[i]!);
      const weight = (p / sum) * get("ffn_down_exps.scale")[expert]!;
      const out = times(get("ffn_down_exps.weight"), inner, expert * s.width, s.width);
      return plus(
        y,
        out.map((v) => v * weight),
      );
    },
    h.map(() => 0),
  );
}
