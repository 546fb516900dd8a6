/**
 * The gated delta rule by chunks beside the recurrent one, heads as in Qwen3.5 9B and 35B-A3B: what both give, the same bits however
 * a prompt is cut and whichever kernel makes a token, and microseconds a layer of prompts and of generation steps.
 */
import { kernelLibrary } from "../../src/backends/library.ts";
import { chunkStateRows } from "../../src/ir/ops/gated_delta_chunks.ts";
import { builtCudaLibrary, type Check, openChecked } from "./check.ts";

/** On fibers, where the script is tried, everything is small. */
const small = builtCudaLibrary()?.includes("standin") ?? false;
const [keyHeads, valueHeads, dim, taps] = small ? [1, 2, 128, 4] : [16, 32, 128, 4];
const keys = keyHeads * dim;
const values = valueHeads * dim;
const channels = 2 * keys + values;
/** A row: q k v before the convolution, z, a, b. */
const stride = channels + values + 2 * valueHeads;
const forms = {
  recurrent: { rule: "psi_gated_delta_rule", step: "psi_gated_delta_step", rows: dim },
  chunks: {
    rule: "psi_gated_delta_chunks",
    step: "psi_gated_delta_chunk_step",
    rows: chunkStateRows(dim, dim),
  },
} as const;
type Form = keyof typeof forms;
/** Layers whose states take turns, so that none is in the device's caches when it is wanted. */
const layers = small ? 2 : 24;

type Argument = number | ArrayBufferView;

function library() {
  const { functions } = kernelLibrary("cuda");
  const call = (name: string, ...args: Argument[]): void => {
    const status = functions.get(name)!(...args);
    if (status !== 0) throw new Error(`[delta] ${name} gave ${status}`);
  };
  const empty = (bytes: number): number => {
    const place = new BigUint64Array(new ArrayBuffer(8));
    call("psi_alloc", place, bytes);
    return Number(place[0]);
  };
  const put = (data: Float32Array | Int32Array): number => {
    const at = empty(Math.max(data.byteLength, 64));
    call("psi_upload", at, data, data.byteLength);
    return at;
  };
  const get = (at: number, count: number): Float32Array => {
    const out = new Float32Array(new ArrayBuffer(4 * count));
    call("psi_download", out, at, out.byteLength);
    return out;
  };
  return { call, empty, put, get };
}
type Library = ReturnType<typeof library>;

/** Between -1 and 1, the same every time; after a million they begin again, in the middle of some row. */
function numbers(count: number, seed: number): Float32Array {
  let state = seed * 2654435761 + 1;
  const all = new Float32Array(count);
  const made = Math.min(count, 1_000_003);
  for (let i = 0; i < made; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    all[i] = state / 2 ** 31 - 1;
  }
  for (let have = made; have < count; have *= 2) all.copyWithin(have, 0, have);
  return all;
}

/** Weights of a layer. */
function weightsOf({ put }: Library) {
  const decay = numbers(valueHeads, 3).map((v, h) => -(10 ** ((2 * h) / valueHeads - 1.5)) * (1 + v / 2));
  return {
    ...{ conv: put(numbers(channels * taps, 2)), decay: put(decay) },
    ...{ dtBias: put(numbers(valueHeads, 4)), norm: put(numbers(dim, 5)) },
  };
}
type Weights = ReturnType<typeof weightsOf>;

/** Calls of a layer over rows of tokens; `x` are their rows. */
function layerOf(l: Library, w: Weights, form: Form, sequences: number, room: number) {
  const { rule, step, rows } = forms[form];
  const tapsBytes = 4 * (taps - 1) * channels;
  const stateBytes = 4 * rows * values;
  const [tapsStates, states] = [tapsBytes, stateBytes].map((bytes) => l.empty(sequences * layers * bytes));
  const [mixed, read, y] = [channels, values, values].map((width) => l.empty(4 * room * width));
  const slots = l.put(Int32Array.from({ length: sequences }, (_, s) => s * layers));
  type Places = { readonly sequence: number; readonly position: number; readonly tokens: number };
  const state = (layer: number) => [tapsStates! + layer * tapsBytes, states! + layer * stateBytes] as const;
  const slotCount = (layer: number) => sequences * layers - layer;
  const heads = [keyHeads, valueHeads, dim, dim];
  const [z, a] = [channels, channels + values];
  const gates = [stride, a, stride, a + valueHeads];
  const ruleOnly = (layer: number, from: number, x: number, at: Places): void => {
    const where = [at.sequence, at.position, slots];
    const columns = [channels, 0, keys, 2 * keys, ...gates];
    const ends = [sequences, slotCount(layer), 1];
    l.call(
      rule,
      read!,
      state(layer)[1],
      from,
      x,
      x,
      w.decay,
      w.dtBias,
      ...where,
      at.tokens,
      ...columns,
      ...heads,
      ...ends,
    );
  };
  return {
    ...{ y: y!, ruleOnly },
    /** Convolution, rule and norm. */
    whole(layer: number, x: number, at: Places): void {
      const where = [at.sequence, at.position, slots];
      const ends = [sequences, slotCount(layer)];
      l.call(
        "psi_causal_conv1d",
        mixed!,
        state(layer)[0],
        x,
        w.conv,
        ...where,
        at.tokens,
        stride,
        0,
        channels,
        taps,
        ...ends,
      );
      ruleOnly(layer, mixed!, x, at);
      l.call("psi_rms_norm_gated", y!, read!, x, w.norm, at.tokens, valueHeads, dim, stride, z, 1e-6);
    },
    step(layer: number, x: number, at: Places): void {
      const inputs = [x, x, x, x, w.conv, w.decay, w.dtBias, w.norm, at.sequence, at.position, slots];
      const columns = [stride, 0, stride, z, ...gates];
      const ends = [sequences, slotCount(layer), 1];
      l.call(step, y!, ...state(layer), ...inputs, at.tokens, ...columns, ...heads, taps, ...ends, 1e-6);
    },
  };
}

/** Rows of `count` tokens of each sequence from `position` on, sequence after sequence. */
function placesOf({ put }: Library, sequences: number, position: number, count: number) {
  const each = Array.from({ length: sequences * count }, (_, i) => i);
  return {
    sequence: put(Int32Array.from(each, (i) => Math.floor(i / count))),
    position: put(Int32Array.from(each, (i) => position + (i % count))),
    tokens: sequences * count,
  };
}

/** Outputs of a layer [sequence][token] of a prompt cut into `parts`; parts of one token by the step where `steps`. */
function outputs(
  l: Library,
  w: Weights,
  form: Form,
  sequences: number,
  parts: readonly number[],
  steps: boolean,
): Float32Array {
  const length = parts.reduce((sum, n) => sum + n, 0);
  const rows = numbers(sequences * length * stride, 7);
  const layer = layerOf(l, w, form, sequences, sequences * Math.max(...parts));
  const all = new Float32Array(sequences * length * values);
  let from = 0;
  for (const count of parts) {
    const part = new Float32Array(sequences * count * stride);
    for (let s = 0; s < sequences; s++)
      part.set(
        rows.subarray((s * length + from) * stride, (s * length + from + count) * stride),
        s * count * stride,
      );
    const at = placesOf(l, sequences, from, count);
    if (steps && count === 1) layer.step(0, l.put(part), at);
    else layer.whole(0, l.put(part), at);
    const y = l.get(layer.y, sequences * count * values);
    for (let s = 0; s < sequences; s++)
      all.set(y.subarray(s * count * values, (s + 1) * count * values), (s * length + from) * values);
    from += count;
  }
  return all;
}

function relative(a: Float32Array, b: Float32Array): number {
  let [error, size] = [0, 1e-30];
  for (const [i, v] of a.entries()) {
    error += (v - b[i]!) ** 2;
    size += b[i]! ** 2;
  }
  return Math.sqrt(error / size);
}

function compare(l: Library, w: Weights, { report }: Check): void {
  const length = small ? 40 : 300;
  const ones = (count: number) => Array<number>(count).fill(1);
  for (const sequences of small ? [1] : [1, 5]) {
    const make = (form: Form, parts: readonly number[], steps = false) =>
      outputs(l, w, form, sequences, parts, steps);
    const whole = make("chunks", [length]);
    const error = relative(whole, make("recurrent", [length]));
    report({
      what: `${sequences} x ${length} tokens: chunks from the recurrent form`,
      ...{ required: "<= 1e-5 of the norm", got: error.toExponential(1), ok: error <= 1e-5 },
    });
    for (const [how, parts, steps] of [
      ["parts", [7, 16, 9, 1, length - 33], false],
      ["a part and steps", [length - 37, ...ones(37)], true],
      ["steps, a part, steps", [...ones(20), length - 23, ...ones(3)], true],
    ] as const) {
      const other = make("chunks", parts, steps);
      const differs = other.findIndex((v, i) => v !== whole[i]);
      report({
        ...{
          what: `${sequences} x ${length} tokens by chunks, ${how}`,
          required: "equal bits",
          ok: differs < 0,
        },
        got: differs < 0 ? "equal bits" : `token ${Math.floor(differs / values) % length} differs`,
      });
    }
  }
}

/** Microseconds of one of `count` calls recorded together, the median of nine launches. */
function recorded({ call }: Library, count: number, make: () => void): () => number {
  make();
  call("psi_synchronize");
  const place = new BigUint64Array(new ArrayBuffer(8));
  call("psi_capture_begin");
  make();
  call("psi_capture_end", place);
  const graph = Number(place[0]);
  const once = (): number => {
    const start = performance.now();
    call("psi_graph_launch", graph);
    call("psi_synchronize");
    return ((performance.now() - start) * 1000) / count;
  };
  return () => Array.from({ length: 9 }, once).sort((a, b) => a - b)[4]!;
}

/** Both forms in turn, three times; the best of each. */
function inTurn(
  recurrent: () => number,
  chunks: () => number,
): { readonly recurrent: number; readonly chunks: number } {
  const samples = [1, 2, 3].map(() => [recurrent(), chunks()] as const);
  const best = (which: 0 | 1) => Math.min(...samples.map((s) => s[which]));
  return { recurrent: best(0), chunks: best(1) };
}

function time(l: Library, w: Weights, { report }: Check): void {
  const say = (what: string, of: ReturnType<typeof inTurn>): void =>
    report({
      ...{ what: `${what}, us a layer`, required: "-" },
      got: `recurrent ${of.recurrent.toFixed(1)}, chunks ${of.chunks.toFixed(1)} (${(of.recurrent / of.chunks).toFixed(2)} x)`,
    });
  const lengths = small ? [32] : [512, 2048, 8192];
  const most = Math.max(...lengths);
  const x = l.put(numbers(most * stride, 8));
  const from = l.put(numbers(most * channels, 9));
  const prompts = {
    recurrent: layerOf(l, w, "recurrent", 1, most),
    chunks: layerOf(l, w, "chunks", 1, most),
  };
  for (const length of lengths) {
    const at = placesOf(l, 1, 0, length);
    const runs = small ? 1 : 4;
    const of = (form: Form) =>
      recorded(l, runs, () => {
        for (let i = 0; i < runs; i++) prompts[form].ruleOnly(i, from, x, at);
      });
    say(`rule over a prompt of ${length}`, inTurn(of("recurrent"), of("chunks")));
  }
  for (const sequences of small ? [1] : [1, 8, 32]) {
    const steps = {
      recurrent: layerOf(l, w, "recurrent", sequences, sequences),
      chunks: layerOf(l, w, "chunks", sequences, sequences),
    };
    for (const position of [1000, 1007]) {
      const at = placesOf(l, sequences, position, 1);
      const of = (form: Form) =>
        recorded(l, layers, () => {
          for (let i = 0; i < layers; i++) steps[form].step(i, x, at);
        });
      const place = position % 16 === 15 ? "at a chunk's end" : "in a chunk";
      say(`step of ${sequences}, ${place}`, inTurn(of("recurrent"), of("chunks")));
    }
  }
}

export function delta(check: Check): void {
  if (check.backend !== "cuda") {
    check.report({ what: "the rule by chunks", required: "-", got: "not on the CPU, which is recurrent" });
    return;
  }
  const device = openChecked("cuda");
  const l = library();
  const w = weightsOf(l);
  compare(l, w, check);
  time(l, w, check);
  device.close();
}
