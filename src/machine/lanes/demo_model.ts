/**
 * The demo lane's decoder: 1,070 weights, one layer, byte tokens, context 2, in 32-bit floats. Gradients are forward
 * differences, so that it needs no kernel library and reads like its definition.
 */
import { sha256Bytes } from "../../core/digest.ts";

const vocabulary = 256;
const width = 2;
const hidden = 4;
const contextLength = 2;
const normEpsilon = 1e-5;
const difference = 5e-3;
const f = Math.fround;

/** Name and shape of every tensor, in the order of the flat weights. */
export const demoTensors: readonly (readonly [string, readonly number[]])[] = [
  ["token_embeddings.weight", [vocabulary, width]],
  ["layers.0.ln1.weight", [width]],
  ["layers.0.attn.q_proj.weight", [width, width]],
  ["layers.0.attn.k_proj.weight", [width, width]],
  ["layers.0.attn.v_proj.weight", [width, width]],
  ["layers.0.attn.output_proj.weight", [width, width]],
  ["layers.0.ln2.weight", [width]],
  ["layers.0.ffn.w1.weight", [hidden, width]],
  ["layers.0.ffn.w2.weight", [width, hidden]],
  ["layers.0.ffn.w3.weight", [hidden, width]],
  ["ln_final.weight", [width]],
  ["lm_head.weight", [vocabulary, width]],
];

const size = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);
export const demoWeightCount = demoTensors.reduce((sum, [, shape]) => sum + size(shape), 0);

/** The tensors as parts of the flat weights. */
export function demoParts(weights: Float32Array): ReadonlyMap<string, Float32Array> {
  let at = 0;
  const parts = demoTensors.map(([name, shape]) => {
    const from = at;
    at += size(shape);
    return [name, weights.subarray(from, at)] as const;
  });
  return new Map(parts);
}

/** Norms begin at 1, everything else at a hash of its name and place, in -0.04..0.04. */
export function initialDemoWeights(): Float32Array {
  const weights = new Float32Array(demoWeightCount);
  for (const [name, part] of demoParts(weights)) {
    const norm = /ln(1|2|_final)\.weight$/.test(name);
    for (let i = 0; i < part.length; i++) part[i] = norm ? 1 : hashed(name, i);
  }
  return weights;
}

function hashed(path: string, index: number): number {
  const place = new Uint8Array(8);
  new DataView(place.buffer).setBigUint64(0, BigInt(index), true);
  const text = new TextEncoder().encode(`psion.cs336_a1.reference_parameter${path}`);
  const digest = sha256Bytes(Buffer.concat([text, place]));
  const u = new DataView(digest.buffer, digest.byteOffset).getUint32(0, true);
  return f(f(f(f(u % 10000) / f(10000)) - 0.5) * f(0.08));
}

/** y = W x; W is (rows, x.length). */
function project(w: Float32Array, x: Float32Array): Float32Array {
  const y = new Float32Array(w.length / x.length);
  for (let r = 0; r < y.length; r++) {
    let sum = 0;
    for (let c = 0; c < x.length; c++) sum = f(sum + f(w[r * x.length + c]! * x[c]!));
    y[r] = sum;
  }
  return y;
}

function rmsNorm(w: Float32Array, x: Float32Array): Float32Array {
  let sum = 0;
  for (const value of x) sum = f(sum + f(value * value));
  const scale = f(1 / f(Math.sqrt(f(f(sum / x.length) + f(normEpsilon)))));
  return x.map((value, i) => f(f(value * scale) * w[i]!));
}

/** One head of width 2 has one pair of dimensions, turned by the position in radians. */
function rotate(x: Float32Array, position: number): Float32Array {
  const [c, s] = [f(Math.cos(position)), f(Math.sin(position))];
  return Float32Array.of(f(f(x[0]! * c) - f(x[1]! * s)), f(f(x[0]! * s) + f(x[1]! * c)));
}

const add = (a: Float32Array, b: Float32Array): Float32Array => a.map((value, i) => f(value + b[i]!));

function softmax(x: Float32Array): Float32Array {
  const most = Math.max(...x);
  const powers = x.map((value) => f(Math.exp(f(value - most))));
  let sum = 0;
  for (const p of powers) sum = f(sum + p);
  return powers.map((p) => f(p / sum));
}

function attention(parts: ReadonlyMap<string, Float32Array>, rows: readonly Float32Array[]): Float32Array[] {
  const weight = (name: string) => parts.get(`layers.0.attn.${name}_proj.weight`)!;
  const q = rows.map((x, t) => rotate(project(weight("q"), x), t));
  const k = rows.map((x, t) => rotate(project(weight("k"), x), t));
  const v = rows.map((x) => project(weight("v"), x));
  return rows.map((_, t) => {
    const scores = Float32Array.from({ length: t + 1 }, (__, s) => {
      const dot = f(f(q[t]![0]! * k[s]![0]!) + f(q[t]![1]! * k[s]![1]!));
      return f(dot / f(Math.sqrt(width)));
    });
    const shares = softmax(scores);
    const mixed = new Float32Array(width);
    for (let s = 0; s <= t; s++)
      for (let c = 0; c < width; c++) mixed[c] = f(mixed[c]! + f(shares[s]! * v[s]![c]!));
    return project(weight("output"), mixed);
  });
}

function feedForward(parts: ReadonlyMap<string, Float32Array>, x: Float32Array): Float32Array {
  const weight = (name: string) => parts.get(`layers.0.ffn.${name}.weight`)!;
  const gate = project(weight("w1"), x).map((a) => f(a / f(1 + f(Math.exp(-a)))));
  const up = project(weight("w3"), x);
  return project(
    weight("w2"),
    gate.map((g, i) => f(g * up[i]!)),
  );
}

/** Mean cross-entropy of a window in nats; tokens are `contextLength` + 1 bytes. */
export function demoLoss(weights: Float32Array, tokens: readonly number[]): number {
  return lossOf(demoParts(weights), tokens);
}

function lossOf(parts: ReadonlyMap<string, Float32Array>, tokens: readonly number[]): number {
  const weight = (name: string) => parts.get(name)!;
  const embedded = tokens
    .slice(0, contextLength)
    .map((token) => weight("token_embeddings.weight").slice(token * width, (token + 1) * width));
  const attended = attention(
    parts,
    embedded.map((x) => rmsNorm(weight("layers.0.ln1.weight"), x)),
  );
  const rows = embedded.map((x, t) => add(x, attended[t]!));
  let total = 0;
  rows.forEach((x, t) => {
    const out = add(x, feedForward(parts, rmsNorm(weight("layers.0.ln2.weight"), x)));
    const logits = project(weight("lm_head.weight"), rmsNorm(weight("ln_final.weight"), out));
    const most = Math.max(...logits);
    let sum = 0;
    for (const logit of logits) sum = f(sum + f(Math.exp(f(logit - most))));
    total = f(total + f(f(most + f(Math.log(sum))) - logits[tokens[t + 1]!]!));
  });
  return f(total / contextLength);
}

export const demoCorpus = "the cat sat on the mat.\nthe cat saw the mat.\n";

/** Tokens of the step with this index, counted from 0. */
export function demoWindow(step: number): number[] {
  const bytes = new TextEncoder().encode(demoCorpus);
  const start = step % (bytes.length - contextLength);
  return [...bytes.subarray(start, start + contextLength + 1)];
}

/** By forward differences, one evaluation per weight. */
export function demoGradient(weights: Float32Array, tokens: readonly number[], loss: number): Float32Array {
  const moved = weights.slice();
  const parts = demoParts(moved);
  return weights.map((value, i) => {
    moved[i] = f(value + f(difference));
    const slope = f(f(lossOf(parts, tokens) - loss) / f(difference));
    moved[i] = value;
    return slope;
  });
}

const mostRate = 0.15;
const leastRate = 0.02;
export const demoSteps = 4;

/** One step of warm-up, then a cosine over the run. */
export function demoRate(step: number): number {
  if (step === 0) return mostRate;
  const share = 0.5 * (1 + Math.cos((Math.PI * (step - 1)) / (demoSteps - 1)));
  return leastRate + share * (mostRate - leastRate);
}

export type DemoStep = {
  readonly step: number;
  /** Of the step's window before and after it, nats. */
  readonly lossBefore: number;
  readonly lossAfter: number;
  /** Before it is clipped to 1. */
  readonly gradientNorm: number;
  readonly learningRate: number;
};

export type DemoState = {
  readonly weights: Float32Array;
  readonly first: Float32Array;
  readonly second: Float32Array;
};

/** All steps of the lane from the initial weights. */
export function trainDemo(): { readonly state: DemoState; readonly steps: readonly DemoStep[] } {
  const weights = initialDemoWeights();
  const state = { weights, first: weights.map(() => 0), second: weights.map(() => 0) };
  const steps = Array.from({ length: demoSteps }, (_, i) => demoStep(state, i));
  return { state, steps };
}

const [beta1, beta2, adamEpsilon] = [0.9, 0.95, 1e-8];

function demoStep({ weights, first, second }: DemoState, index: number): DemoStep {
  const tokens = demoWindow(index);
  const lossBefore = demoLoss(weights, tokens);
  const gradient = demoGradient(weights, tokens, lossBefore);
  let squares = 0;
  for (const g of gradient) squares = f(squares + f(g * g));
  const gradientNorm = f(Math.sqrt(squares));
  const scale = gradientNorm > 1 ? f(1 / gradientNorm) : 1;
  const learningRate = demoRate(index);
  const [c1, c2] = [1 - beta1 ** (index + 1), 1 - beta2 ** (index + 1)];
  for (let i = 0; i < weights.length; i++) {
    const g = f(gradient[i]! * scale);
    first[i] = f(f(beta1 * first[i]!) + f(f(1 - beta1) * g));
    second[i] = f(f(beta2 * second[i]!) + f(f(1 - beta2) * f(g * g)));
    const update = f(first[i]! / c1) / (Math.sqrt(f(second[i]! / c2)) + adamEpsilon);
    weights[i] = f(weights[i]! - learningRate * update);
  }
  return { step: index + 1, lossBefore, lossAfter: demoLoss(weights, tokens), gradientNorm, learningRate };
}
