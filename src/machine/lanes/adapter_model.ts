/**
 * Low-rank adapters (arXiv:2106.09685) on a model that stays as it is: a chosen matrix W of the base is seen as
 * W + (alpha / r) B A, and A [r, in] and B [out, r] are what is trained. A begins at small normal numbers, B at 0, so the
 * model begins as its base.
 */
import { sha256 } from "../../core/digest.ts";
import { unexpected } from "../../core/error.ts";
import { elementCount } from "../../core/shape.ts";
import { memorySource } from "../../models/files/bytes.ts";
import { parseSafetensors } from "../../models/files/safetensors.ts";
import type { Device } from "../../runtime/device.ts";
import type { Tensor } from "../../runtime/tensor.ts";
import { gemm, mix } from "../../runtime/training.ts";
import { constant, normal, type ParameterSpec, type Scene, type TrainedModel } from "../../train/model.ts";
import { Parameters, part } from "../../train/parameters.ts";
import { refuse } from "../contract.ts";
import type { LaneProfile } from "../evidence.ts";
import { baseWeightsPath } from "../evidence_files.ts";
import type { BaseModel } from "./profile_model.ts";
import type { SettingsReader } from "./profile_settings.ts";
import type { ProfileFiles } from "./window_plan.ts";

export type AdapterModel = {
  readonly model: TrainedModel;
  readonly base: TrainedModel;
  readonly rank: number;
  readonly alpha: number;
  /** Names of the adapted matrices, without `.weight`. */
  readonly adapted: readonly string[];
  /** Puts the base's weights on a device. */
  hold(device: Device): void;
  /** Frees what a device holds of the base. */
  release(device: Device): void;
};

/** The adapter that a profile's model settings ask for; undefined where they name none. */
export function adapterModel(
  { model: base, transposed, own }: BaseModel,
  read: SettingsReader,
  profile: LaneProfile,
  seed: number,
  files: ProfileFiles,
): AdapterModel | undefined {
  const rank = read.whole("adapter_rank", 0, 0, 1024);
  if (rank === 0) {
    if (own)
      refuse("bad_config", `lane profile: ${base.id} is a base for adapters, which adapter_rank asks for`);
    if (profile.base_digest !== null)
      refuse(
        "bad_config",
        "lane profile: base_digest goes with adapter_rank; other models begin at their seed",
      );
    return undefined;
  }
  const alpha = read.number("adapter_alpha", rank, 1e-6, 1e6);
  const targets = (read.text("adapter_targets") ?? "").split(",").filter((t) => t !== "");
  const matrices = base.parameters.filter(
    ({ name, shape, class: kind }) =>
      kind === "matrix" && shape.length === 2 && targets.some((target) => stem(name).endsWith(target)),
  );
  if (matrices.length === 0)
    read.wrong("adapter_targets", "ends of names of the base's matrices, with commas", targets.join(","));
  const parameters = matrices.flatMap((spec) => adapterSpecs(spec, rank, transposed));
  const weights = new BaseWeights(base, seed, own ? ownBase(own, profile) : baseFile(profile, files));
  const adapted = new Set(matrices.map(({ name }) => name));
  const seen = (scene: Scene): Scene => ({
    ...scene,
    weight(name) {
      if (!adapted.has(name)) return weights.weight(scene.weight(parameters[0]!.name).device, name);
      const [a, b] = [scene.weight(adapterName(name, "A")), scene.weight(adapterName(name, "B"))];
      const frozen = weights.weight(a.device, name);
      const params = { transA: transposed, transB: transposed, dtype: "f32" as const };
      return mix(frozen, transposed ? gemm(a, b, params) : gemm(b, a, params), 1, alpha / rank);
    },
  });
  const model: TrainedModel = {
    ...{ id: `${base.id}+lora`, vocabularySize: base.vocabularySize, contextLength: base.contextLength },
    parameters,
    losses: (scene, batch) => base.losses(seen(scene), batch),
    flopsPerToken: (length) => base.flopsPerToken(length),
  };
  return {
    ...{ model, base, rank, alpha, adapted: matrices.map(({ name }) => stem(name)) },
    hold: (device) => weights.hold(device),
    release: (device) => weights.release(device),
  };
}

const stem = (name: string): string => name.replace(/\.weight$/, "");

/** As adapters are named where they are exchanged. */
export const adapterName = (weight: string, part: "A" | "B"): string => `${stem(weight)}.lora_${part}.weight`;

function adapterSpecs({ name, shape }: ParameterSpec, rank: number, transposed: boolean): ParameterSpec[] {
  const [rows, columns] = shape as readonly [number, number];
  const [from, to] = transposed ? [rows, columns] : [columns, rows];
  return [
    {
      ...{ name: adapterName(name, "A"), shape: [rank, from], class: "matrix" },
      initial: normal(from ** -0.5),
    },
    { name: adapterName(name, "B"), shape: [to, rank], class: "matrix", initial: constant(0) },
  ];
}

type Fill = (parameters: Parameters) => void;

function ownBase(own: NonNullable<BaseModel["own"]>, { base_digest }: LaneProfile): Fill {
  if (own.digest === base_digest) return (parameters) => own.fill(parameters);
  return refuse(
    "artifact_digest_mismatch",
    `lane profile base_digest: expected ${own.digest}, the model's, got ${base_digest ?? "null"}`,
  );
}

function baseFile({ base_digest }: LaneProfile, files: ProfileFiles): Fill | undefined {
  if (base_digest === null) return undefined;
  const bytes = files(baseWeightsPath);
  const found = sha256(bytes);
  if (found === base_digest) return (parameters) => fillFrom(parameters, bytes);
  return refuse(
    "artifact_digest_mismatch",
    `${baseWeightsPath}: expected SHA-256 ${base_digest}, got ${found}`,
  );
}

/** The base's weights on each device that asks for them. */
class BaseWeights {
  readonly #base: TrainedModel;
  readonly #seed: number;
  readonly #fill: Fill | undefined;
  readonly #held = new Map<Device, Parameters>();

  constructor(base: TrainedModel, seed: number, fill: Fill | undefined) {
    this.#base = base;
    this.#seed = seed;
    this.#fill = fill;
  }

  weight(device: Device, name: string): Tensor {
    return this.hold(device).weight(name);
  }

  hold(device: Device): Parameters {
    const before = this.#held.get(device);
    if (before) return before;
    const held = new Parameters(device, this.#base, "f32");
    this.#held.set(device, held);
    // shapes are all that the meta device has
    if (device.name === "meta") return held;
    if (this.#fill) this.#fill(held);
    else held.initialise(this.#seed);
    return held;
  }

  release(device: Device): void {
    this.#held.get(device)?.[Symbol.dispose]();
    this.#held.delete(device);
  }
}

/** Of f32 tensors of the base's names and shapes; other tensors of the file, such as moments, are let be. */
function fillFrom(parameters: Parameters, file: Uint8Array): void {
  const source = memorySource(baseWeightsPath, file);
  const records = parseSafetensors(source);
  for (const place of parameters.places) {
    const { name, shape } = place.spec;
    const record = records.get(name) ?? records.get(`model.${name}`);
    if (record?.dtype !== "f32" || record.shape.join() !== shape.join())
      throw unexpected(
        ...(["file_malformed", baseWeightsPath, `f32 [${shape}] as ${name}`] as const),
        record ? `${record.dtype} [${record.shape}]` : "nothing",
      );
    const data = new Uint8Array(4 * elementCount(shape));
    source.read(record.offset, data);
    parameters.device.upload(part(parameters.values, place, [place.count]), data);
  }
  parameters.refresh();
}
