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
import type { RouterParams } from "../ir/ops/router.ts";
import {
  add,
  addGated,
  addRmsNorm,
  causalConv1d,
  embedding,
  gatedDeltaRule,
  gatherRows,
  rmsNorm,
  rmsNormGated,
} from "../runtime/functions.ts";
import type { Tensor } from "../runtime/tensor.ts";
import {
  type AttentionShape,
  type AttentionWeights,
  addCombined,
  attend,
  type CachePlace,
  cacheGroups,
  chosenExperts,
  type Experts,
  type GateUp,
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
  const head = w.linear(tied ? "token_embd" : "output", c.vocabularySize, c.width);
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
  return {
    config: c,
    cacheGroups: groups.map((g) => ({ ...g, layers: g.layers.map((slot) => full[slot]!) })),
    ...(deltas.length > 0 && {
      recurrent: {
        layers: deltas,
        convolution: [c.convolution - 1, channels],
        memory: [c.valueHeads, c.keyDim, c.valueDim],
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
  let h = embedding(parts.table, step.tokens); // [T, D]
  const device = h.device;
  for (const [i, { mixer, mixerNorm, mlpNorm, mlp }] of parts.layers.entries()) {
    const last = i === parts.layers.length - 1;
    // Past the last layer's mixer only the wanted rows go on.
    const kept = last ? device.temporary({ dtype: "f32", shape: [step.outputRows.shape[0]!, c.width] }) : h;
    {
      using _layer = device.scope();
      const a = rmsNorm(h, mixerNorm, c.eps);
      let mixed =
        mixer.kind === "full"
          ? attend(a, mixer.weights, parts.attention, step, mixer.place)
          : deltaRule(c, mixer, a, step);
      if (last) {
        mixed = gatherRows(mixed, step.outputRows);
        h = gatherRows(h, step.outputRows);
      }
      const output = mixer.kind === "full" ? mixer.weights.output : mixer.output;
      const o = linear(mixed, output);
      if (mlp.kind === "dense") {
        const b = addRmsNorm(h, o, mlpNorm, c.eps); // h += o
        add(h, gatedMlp(b, mlp.gateUp, mlp.down, "silu"), kept);
      } else addExperts(mlp, h, normAndRoute(h, o, mlpNorm, mlp.router, routing(c), c.eps), kept);
    }
    h = kept;
  }
  return rmsNorm(h, parts.outputNorm, c.eps);
}

/** What the value heads read from their memories, normed and gated, f32 [T, Hv * Ev], for the normed stream a [T, D]. */
function deltaRule(c: Qwen35Config, w: DeltaRule, a: Tensor, step: Step): Tensor {
  const { pool, sequences, rows } = step.states!;
  const outputs = w.inputs.map((part) => linear(a, part));
  const [qkv, z, alpha, beta] = w.at.map(({ part, offset }) => ({ tensor: outputs[part]!, offset }));
  const at = { sequences, positions: step.positions, slots: rows };
  const state = pool.convolutions[w.place]!;
  const mixed = causalConv1d(qkv!.tensor, w.convolution, state, at, qkv!.offset); // [T, C]
  const keys = c.keyHeads * c.keyDim;
  const gates = { a: alpha!.tensor, b: beta!.tensor };
  const read = gatedDeltaRule(mixed, gates, w, pool.memories[w.place]!, at, {
    ...{ qOffset: 0, kOffset: keys, vOffset: 2 * keys, aOffset: alpha!.offset, bOffset: beta!.offset },
    ...{ keyHeads: c.keyHeads, keyDim: c.keyDim, tiled: c.tiledValueHeads },
  });
  return rmsNormGated(read, z!.tensor, w.norm, { eps: c.eps, gateOffset: z!.offset });
}

const routing = (c: Qwen35Config): RouterParams => ({
  ...{ mode: "softmax", used: c.expertsUsed, normalize: true, scale: c.expertScale },
});

/** h + the chosen experts' results + the shared expert's by its own gate. */
function addExperts(mlp: Sparse, h: Tensor, routed: Routed, into: Tensor): void {
  const { b, ids, weights } = routed;
  addCombined(h, chosenExperts(b, ids, mlp.experts, { kind: "silu" }), weights, into);
  const { shared } = mlp;
  if (!shared) return;
  addGated(into, gatedMlp(b, shared.gateUp, shared.down, "silu"), linear(b, shared.gate), into);
}
