/** A stage's neighbours when its steps are done again: what it was given is read from the contribution, what it makes is compared. */
import { float32Text } from "../core/json.ts";
import type { Returned, StageLinks } from "../train/pipeline.ts";
import { refuse } from "./contract.ts";
import { verified } from "./documents.ts";
import type { StageAssignment } from "./manifest.ts";
import { boundBytes } from "./replay_inputs.ts";
import { jsonOf } from "./run_root.ts";
import { returned } from "./stage_exchange.ts";
import { givenPayloadKind, givenTensorKind, madePayloadKind, type TensorKind } from "./stage_files.ts";
import { stageNorm } from "./stage_norm.ts";
import { contentDigest, largestTensor, type StageTensor, stageTensor, unpackTensor } from "./stage_tensor.ts";
import { typed } from "./stage_transport.ts";
import type { Difference, ReplayTarget } from "./window_replayer.ts";

type Given = { readonly doc: StageTensor; readonly values: Float32Array };

export class ReplayedNeighbours implements StageLinks {
  /** What was found not to be what the contribution says. */
  readonly differences: Difference[] = [];
  readonly #target: ReplayTarget;
  readonly #stage: StageAssignment;
  readonly #shape: readonly [number, number];

  /** On the kernels of the worker, so that what is made is compared bit for bit. */
  constructor(target: ReplayTarget, stage: StageAssignment, shape: readonly [number, number]) {
    this.#target = target;
    this.#stage = stage;
    this.#shape = shape;
  }

  input(step: number): Float32Array {
    return this.#given("activation", step).values;
  }

  exchange(step: number, activation: Float32Array): Returned {
    const made = this.#made("activation", step);
    this.#compare(made, `${madePayloadKind("activation", step)}.content_sha256`, contentDigest(activation));
    const { doc, values } = this.#given("gradient", step);
    this.#differ(`${givenPayloadKind("gradient", step)}.answers`, made.content_sha256, doc.answers ?? "null");
    return returned({ doc, values });
  }

  giveBack(step: number, { gradient, loss, squares }: Returned): void {
    const made = this.#made("gradient", step);
    const kind = madePayloadKind("gradient", step);
    const taken = this.#document(givenPayloadKind("activation", step));
    this.#differ(`${kind}.answers`, taken.content_sha256, made.answers ?? "null");
    this.#compare(made, `${kind}.content_sha256`, contentDigest(gradient));
    this.#differ(`${kind}.loss`, made.loss ?? "null", float32Text(loss));
    this.#differ(`${kind}.square_sums`, made.square_sums?.join() ?? "none", squares?.join() ?? "none");
  }

  agree(step: number, known: readonly number[]): readonly number[] {
    const { upstream_stage_id: up, downstream_stage_id: down, stage_count } = this.#stage;
    const told = up === null ? known.map(String) : this.#norm(givenPayloadKind("norm", step));
    const own = known.map(String);
    if (up !== null) {
      const kind = givenPayloadKind("norm", step);
      this.#differ(`${kind}.square_sums`, told.slice(-own.length).join(), own.join());
    }
    const kind = madePayloadKind("norm", step);
    if (down !== null) this.#differ(`${kind}.square_sums`, this.#norm(kind).join(), told.join());
    if (told.length !== stage_count)
      this.#differ(`steps.${step}.square_sums`, `of ${stage_count} stages`, `of ${told.length} stages`);
    return told.map(Number);
  }

  #norm(kind: string): readonly string[] {
    const bytes = this.#bytes(kind);
    return typed(() => verified(stageNorm, jsonOf(bytes, kind), kind)).square_sums;
  }

  #compare(made: StageTensor, what: string, observed: string): void {
    this.#differ(what, made.content_sha256, observed);
  }

  #differ(what: string, expected: string, observed: string): void {
    if (expected !== observed) this.differences.push({ what, expected, observed });
  }

  #made(kind: TensorKind, step: number): StageTensor {
    return this.#document(madePayloadKind(kind, step));
  }

  #given(kind: TensorKind, step: number): Given {
    const name = givenPayloadKind(kind, step);
    const doc = this.#document(name);
    const [rows, width] = this.#shape;
    if (BigInt(doc.rows) !== BigInt(rows) || BigInt(doc.width) !== BigInt(width))
      refuse("artifact_digest_mismatch", `${name} is ${doc.rows} by ${doc.width}, not ${rows} by ${width}`);
    const values = unpackTensor(doc, this.#bytes(givenTensorKind(kind, step)));
    return { doc, values };
  }

  #document(kind: string): StageTensor {
    const bytes = this.#bytes(kind);
    return typed(() => verified(stageTensor, jsonOf(bytes, kind), kind));
  }

  #bytes(kind: string): Uint8Array {
    const found = this.#target.file(kind);
    if (!found) return refuse("artifact_incomplete", `the contribution has no ${kind}`);
    return boundBytes(found, largestTensor);
  }
}
