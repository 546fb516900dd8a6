/**
 * Qwen3.5 and 3.6, dense and sparse: three layers of gated delta rule (a convolution and a memory matrix per head that do
 * not grow with the context) to one of gated full attention with head norms and partial rotary.
 *
 *   full:       h += Wo (attention(rope(norm(Wq a)), rope(norm(Wk a)), Wv a) * sigmoid(Wg a))              a = RMS(h)
 *   recurrent:  q, k, v = silu(conv(Wqkv a));  decay = exp(-A softplus(Wa a + dt));  beta = sigmoid(Wb a)
 *               S = decay S;  S += k (beta (v - S^T k))^T;  o = S^T q                 per value head
 *               h += Wo (norm(o) * silu(Wz a))
 *   dense:      h += Wd (silu(Wg b) * (Wu b))                                                               b = RMS(h)
 *   sparse:     h += experts(b) + sigmoid(w b) * shared(b)
 *   logits = W RMS(h)
 */
import { chunkStateRows, goesByChunks } from "../ir/ops/gated_delta_chunks.ts";
import { stepsFused } from "../ir/ops/gated_delta_step.ts";
import { sharedFused } from "../ir/ops/moe_combine_shared_norm.ts";
import type { RouterParams } from "../ir/ops/router.ts";
import {
  addGated,
  addRmsNorm,
  causalConv1d,
  embedding,
  gatedDeltaRule,
  gatedDeltaStep,
  gatherRows,
  moeCombineSharedNorm,
  moeMatmul,
  rmsNorm,
  rmsNormGated,
} from "../runtime/functions.ts";
import { rowsOf, type Tensor } from "../runtime/tensor.ts";
import { copyLayerState } from "./cache.ts";
import {
  type AttentionShape,
  type AttentionWeights,
  addCombined,
  addCombinedAndNorm,
  attend,
  type CachePlace,
  cacheGroups,
  type Experts,
  type GateUp,
  gated,
  gatedExperts,
  gatedMlp,
  type Linear,
  linear,
  normAndRoute,
  type Routed,
} from "./layers.ts";
import { decoder, type Model, type Step } from "./model.ts";
import type { Qwen35Config } from "./qwen35_config.ts";
import { passDraftBlocks } from "./qwen35_draft.ts";
import { rotary } from "./rotary.ts";
import type { RowRun, Weights } from "./weights.ts";

type FullAttention = {
  readonly kind: "full";
  readonly weights: AttentionWeights;
  readonly place: CachePlace;
};

type DeltaRule = {
  readonly kind: "recurrent";
  /** q, k, v [C] before the convolution, z [Hv * Ev], a [Hv], b [Hv] */
  readonly inputs: readonly Linear[];
  /** Where each of the four stands. */
  readonly at: readonly { readonly part: number; readonly offset: number }[];
  readonly convolution: Tensor; // [C, K]
  readonly decay: Tensor; // [Hv], -exp(A_log)
  readonly dtBias: Tensor; // [Hv]
  readonly norm: Tensor; // [Ev]
  readonly output: Linear;
  /** Index in the state pool. */
  readonly place: number;
};

type Dense = { readonly kind: "dense"; readonly gateUp: GateUp; readonly down: Linear };

type Sparse = {
  readonly kind: "sparse";
  readonly router: Linear; // [E, D]
  readonly experts: Experts;
  readonly shared?: { readonly gateUp: GateUp; readonly down: Linear; readonly gate: Linear };
};

type Layer = {
  readonly mixerNorm: Tensor; // [D]
  readonly mixer: FullAttention | DeltaRule;
  readonly mlpNorm: Tensor; // [D]
  readonly mlp: Dense | Sparse;
};

type Parts = {
  readonly table: Tensor; // [V, D]
  readonly attention: AttentionShape;
  readonly layers: readonly Layer[];
  readonly outputNorm: Tensor; // [D]
};

export function loadQwen35(c: Qwen35Config, w: Weights): Model {
  const full = c.recurrent.flatMap((recurrent, i) => (recurrent ? [] : [i]));
  const deltas = c.recurrent.flatMap((recurrent, i) => (recurrent ? [i] : []));
  const { groups, places } = cacheGroups(
    full.map(() => ({ window: 0, kvHeads: c.kvHeads, headDim: c.headDim })),
  );
  const layers = Array.from({ length: c.layers }, (_, i): Layer => {
    const mixer = c.recurrent[i]
      ? loadDeltaRule(c, w, i, deltas.indexOf(i))
      : loadFullAttention(c, w, i, places[full.indexOf(i)]!);
    return {
      mixerNorm: norm(c, w, `blk.${i}.attn_norm`, c.width),
      mixer,
      mlpNorm: norm(c, w, `blk.${i}.post_attention_norm`, c.width),
      mlp: c.experts > 0 ? loadSparse(c, w, i) : loadDense(c, w, i),
    };
  });
  const tied = c.tied ?? !w.has("output.weight");
  const head = w.head(tied ? "token_embd" : "output", c.vocabularySize, c.width);
  const { invFreq, mscale } = rotary(c.ropeBase, c.rotaryDims, { type: "none" });
  const parts: Parts = {
    table: tied ? head.weight : w.table("token_embd", c.vocabularySize, c.width),
    attention: {
      ...{ heads: c.heads, kvHeads: c.kvHeads, headDim: c.headDim, eps: c.eps, scale: c.attentionScale },
      ...{ window: 0, softcap: 0, neox: true, rotary: { invFreq: w.constant(invFreq), mscale } },
    },
    layers,
    outputNorm: norm(c, w, "output_norm", c.width),
  };
  const notes = passDraftBlocks(c, w);
  const channels = 2 * c.keyHeads * c.keyDim + c.valueHeads * c.valueDim;
  // where a device has the form by chunks, a state has room for a chunk's tokens
  const chunks =
    head.weight.device.backend.supports("gated_delta_chunks") && goesByChunks(c.keyDim, c.valueDim);
  return {
    config: c,
    cacheGroups: groups.map((g) => ({ ...g, layers: g.layers.map((slot) => full[slot]!) })),
    ...(deltas.length > 0 && {
      recurrent: {
        layers: deltas,
        convolution: [c.convolution - 1, channels],
        memory: [c.valueHeads, chunks ? chunkStateRows(c.keyDim, c.valueDim) : c.keyDim, c.valueDim],
      },
    }),
    notes,
    parameters: w.parameters,
    weightBytes: w.residentBytes,
    ...decoder(
      (step) => hidden(c, parts, step),
      (x) => linear(x, head),
    ),
    free: () => w.free(),
  };
}

function norm(c: Qwen35Config, w: Weights, name: string, width: number): Tensor {
  return w.vector(`${name}.weight`, width, c.fromCheckpoint ? 1 : 0);
}

/** Files hold a head's queries and then its gates, head after head; here all queries stand before all gates. */
function loadFullAttention(c: Qwen35Config, w: Weights, i: number, place: CachePlace): FullAttention {
  const name = (part: string): string => `blk.${i}.${part}`;
  const e = c.headDim;
  const q = c.heads * e;
  const kv = c.kvHeads * e;
  const halves = (which: 0 | 1): RowRun[] =>
    Array.from({ length: c.heads }, (_, h) => {
      return { name: name("attn_q"), total: 2 * q, from: (2 * h + which) * e, rows: e };
    });
  const whole = (part: string): RowRun => ({ name: name(part), total: kv, from: 0, rows: kv });
  const [key, value] = [whole("attn_k"), whole("attn_v")];
  const types = new Set([name("attn_q"), key.name, value.name].map((n) => w.dtype(`${n}.weight`)));
  const joined = types.size === 1;
  const qkv = joined
    ? [w.runs([...halves(0), key, value, ...halves(1)], c.width)]
    : [w.runs([...halves(0), ...halves(1)], c.width), w.runs([key], c.width), w.runs([value], c.width)];
  const at = joined
    ? [0, q, q + kv].map((offset) => ({ part: 0, offset }))
    : [0, 1, 2].map((part) => ({ part, offset: 0 }));
  return {
    kind: "full",
    weights: {
      ...{ qkv, at, gate: { part: 0, offset: joined ? q + 2 * kv : q } },
      output: w.linear(name("attn_output"), c.width, q),
      qNorm: norm(c, w, name("attn_q_norm"), e),
      kNorm: norm(c, w, name("attn_k_norm"), e),
    },
    place,
  };
}

function loadDeltaRule(c: Qwen35Config, w: Weights, i: number, place: number): DeltaRule {
  const name = (part: string): string => `blk.${i}.${part}`;
  const values = c.valueHeads * c.valueDim;
  const channels = 2 * c.keyHeads * c.keyDim + values;
  const wide = [
    { name: name("attn_qkv"), outputs: channels },
    { name: name("attn_gate"), outputs: values },
  ];
  const narrow = ["ssm_alpha", "ssm_beta"].map((part) => ({ name: name(part), outputs: c.valueHeads }));
  const layers = [...wide, ...narrow];
  const types = new Set(layers.map((l) => w.dtype(`${l.name}.weight`)));
  // all four in one where types agree and panels line up, else the wide ones without the narrow ones
  const groups = types.size === 1 && c.valueHeads % 16 === 0 ? [layers] : [wide, narrow];
  const inputs: Linear[] = [];
  const at = groups.flatMap((group) => {
    const loaded = w.linears(group, c.width);
    const first = inputs.length;
    inputs.push(...loaded.parts);
    return loaded.at.map(({ part, offset }) => ({ part: first + part, offset }));
  });
  const decay = w.hostVector(name("ssm_a"), c.valueHeads);
  const bare = name("ssm_dt");
  return {
    kind: "recurrent",
    ...{ inputs, at, place },
    convolution: w.matrix(`${name("ssm_conv1d")}.weight`, channels, c.convolution),
    decay: w.constant(c.fromCheckpoint ? decay.map((x) => -Math.exp(x)) : decay),
    dtBias: w.vector(w.has(bare) ? bare : `${bare}.bias`, c.valueHeads),
    norm: w.vector(`${name("ssm_norm")}.weight`, c.valueDim),
    output: w.linear(name("ssm_out"), c.width, values),
  };
}

function loadDense(c: Qwen35Config, w: Weights, i: number): Dense {
  return {
    kind: "dense",
    gateUp: w.gateUp(`blk.${i}.ffn_gate`, `blk.${i}.ffn_up`, c.feedForward, c.width),
    down: w.linear(`blk.${i}.ffn_down`, c.width, c.feedForward),
  };
}

function loadSparse(c: Qwen35Config, w: Weights, i: number): Sparse {
  const name = (part: string): string => `blk.${i}.${part}`;
  const [f, shared] = [c.expertFeedForward, c.sharedFeedForward];
  return {
    kind: "sparse",
    router: w.linear(name("ffn_gate_inp"), c.experts, c.width),
    experts: {
      gateUp: w.expertGateUp(i, c.experts, f, c.width),
      down: w.experts([name("ffn_down_exps")], c.experts, c.width, f),
    },
    ...(shared > 0 && {
      shared: {
        gateUp: w.gateUp(name("ffn_gate_shexp"), name("ffn_up_shexp"), shared, c.width),
        down: w.linear(name("ffn_down_shexp"), c.width, shared),
        gate: w.linear(name("ffn_gate_inp_shexp"), 1, c.width),
      },
    }),
  };
}

/** Normed hidden states f32 [R, D] of the wanted rows. */
function hidden(c: Qwen35Config, parts: Parts, step: Step): Tensor {
  const { layers } = parts;
  let h = embedding(parts.table, step.tokens); // [T, D]
  const device = h.device;
  const a = rmsNorm(h, layers[0]!.mixerNorm, c.eps); // each layer leaves the next one's
  const result = device.temporary({ dtype: "f32", shape: [step.outputRows.shape[0]!, c.width] });
  for (const [i, { mixer, mlpNorm, mlp }] of layers.entries()) {
    const last = i === layers.length - 1;
    const [norm, normed] = last ? [parts.outputNorm, result] : [layers[i + 1]!.mixerNorm, a];
    using _layer = device.scope();
    let mixed =
      mixer.kind === "full"
        ? attend(a, mixer.weights, parts.attention, step, mixer.place)
        : deltaRule(c, mixer, a, step);
    if (last) {
      // past the last layer's mixer only the wanted rows go on
      mixed = gatherRows(mixed, step.outputRows);
      h = gatherRows(h, step.outputRows);
    }
    const output = mixer.kind === "full" ? mixer.weights.output : mixer.output;
    const o = linear(mixed, output);
    if (mlp.kind === "dense") {
      const b = addRmsNorm(h, o, mlpNorm, c.eps); // h += o
      addRmsNorm(h, gatedMlp(b, mlp.gateUp, mlp.down, "silu"), norm, c.eps, normed); // h += mlp
    } else {
      const routed = normAndRoute(h, o, mlpNorm, mlp.router, routing(c), c.eps); // h += o
      addExperts(mlp, h, routed, norm, c.eps, normed);
    }
  }
  return result;
}

/** What the value heads read from their memories, normed and gated, f32 [T, Hv * Ev], for the normed stream a [T, D]. */
function deltaRule(c: Qwen35Config, w: DeltaRule, a: Tensor, step: Step): Tensor {
  const { pool, sequences, rows } = step.states!;
  const outputs = w.inputs.map((part) => linear(a, part));
  const [qkv, z, alpha, beta] = w.at.map(({ part, offset }) => ({ tensor: outputs[part]!, offset }));
  const at = { sequences, positions: step.positions, slots: rows };
  const [convolution, memory] = [pool.convolutions[w.place]!, pool.memories[w.place]!];
  const { keyHeads, keyDim, eps } = c;
  const offsets = { aOffset: alpha!.offset, bOffset: beta!.offset };
  const heads = { keyHeads, keyDim, tiled: c.tiledValueHeads };
  const tokens = a.shape[0]!;
  const fused = a.device.backend.supports("gated_delta_step") && !step.states!.keeps?.length;
  if (fused && stepsFused(tokens, rows, w.convolution, c, c.valueDim)) {
    const projections = { qkv: qkv!.tensor, z: z!.tensor, a: alpha!.tensor, b: beta!.tensor };
    const columns = { offset: qkv!.offset, zOffset: z!.offset };
    const params = { ...columns, ...offsets, ...heads, eps };
    return gatedDeltaStep(projections, w, { convolution, memory }, at, params);
  }
  const keys = keyHeads * keyDim;
  const params = { qOffset: 0, kOffset: keys, vOffset: 2 * keys, ...offsets, ...heads };
  const read = a.device.temporary({ dtype: "f32", shape: [tokens, c.valueHeads * c.valueDim] });
  let first = 0;
  for (const keep of [...(step.states!.keeps ?? []), undefined]) {
    const count = (keep?.row ?? tokens) - first;
    const part = (t: Tensor): Tensor => rowsOf(t, first, count);
    const own = { sequences: part(at.sequences), positions: part(at.positions), slots: rows };
    const mixed = causalConv1d(part(qkv!.tensor), w.convolution, convolution, own, qkv!.offset); // [T, C]
    const gates = { a: part(alpha!.tensor), b: part(beta!.tensor) };
    gatedDeltaRule(mixed, gates, w, memory, own, params, part(read));
    if (keep) copyLayerState(a.device, pool, w.place, keep.from, keep.to);
    first += count;
  }
  return rmsNormGated(read, z!.tensor, w.norm, { eps, gateOffset: z!.offset });
}

const routing = (c: Qwen35Config): RouterParams => ({
  ...{ mode: "softmax", used: c.expertsUsed, normalize: true, scale: c.expertScale },
});

/** h += the chosen experts' results + the shared expert's by its own gate; the norm of that, [T, D], goes to `into`. */
function addExperts(mlp: Sparse, h: Tensor, routed: Routed, norm: Tensor, eps: number, into: Tensor): void {
  const { b, ids, weights } = routed;
  const { experts, shared } = mlp;
  const gatedResults = gatedExperts(b, ids, experts, { kind: "silu" });
  // between the products of the routed experts, beside which CUDA runs it
  const gatedShared = shared && gated(b, shared.gateUp, "silu");
  const results = moeMatmul(gatedResults, experts.down.weight, experts.down.bias, ids);
  if (!shared) {
    addCombinedAndNorm(h, results, weights, norm, eps, into);
    return;
  }
  const own = linear(gatedShared!, shared.down);
  const { weight: gate, adapter } = shared.gate;
  if (!adapter && h.device.backend.supports("moe_combine_shared_norm") && sharedFused(gate)) {
    moeCombineSharedNorm(h, results, weights, { results: own, b, gate }, norm, eps, into);
    return;
  }
  addCombined(h, results, weights, h);
  addGated(h, own, linear(b, shared.gate), h);
  rmsNorm(h, norm, eps, into);
}
