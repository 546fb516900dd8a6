/** A lane profile made into what a trainer needs: model, data, settings; and the identity of what its steps read. */
import { openDevice } from "../../backends/index.ts";
import { planDigest } from "../../compiler/digest.ts";
import { sha256 } from "../../core/digest.ts";
import { PsionicError } from "../../core/error.ts";
import { type Windows, windowsOf } from "../../data/batches.ts";
import { type EncodedSection, referenceCorpus } from "../../data/reference_corpus.ts";
import type { Program } from "../../ir/program.ts";
import { record } from "../../runtime/recorder.ts";
import type { TrainedModel } from "../../train/model.ts";
import { adamWGroups, muonGroups } from "../../train/optimizer/config.ts";
import type { Schedule } from "../../train/schedule.ts";
import { Trainer, type TrainerConfig } from "../../train/trainer.ts";
import { WindowOrder } from "../../train/window_order.ts";
import { refuse } from "../contract.ts";
import type { ExecutionEvidence, LaneProfile } from "../evidence.ts";
import { tokenPrefix } from "../evidence_files.ts";
import { staysInside } from "../names.ts";
import { type AdapterModel, adapterModel } from "./adapter_model.ts";
import { modelOf } from "./profile_model.ts";
import { SettingsReader } from "./profile_settings.ts";

export type WindowPlan = {
  readonly profile: LaneProfile;
  readonly model: TrainedModel;
  /** Where adapters are trained on a model that stays as it is. */
  readonly adapter: AdapterModel | undefined;
  readonly windows: Windows;
  /** Windows of text that no step reads, one after the other; undefined where the profile trains on all there is. */
  heldOut(): Windows | undefined;
  readonly config: TrainerConfig;
  /** Steps after which the state is retained are multiples of this, and the last of a window. */
  readonly retainEvery: number;
};

/** Bytes of a file that a profile names as data (`tokens:<path>`) or as base; i32 little-endian token ids, or safetensors. */
export type ProfileFiles = (path: string) => Uint8Array;

/** Sequences of a window: evidence names the range of each, and a document has its limits. */
const mostRanges = 100_000;
/** The reference corpus in the tokens of the base's own tokenizer. */
export const referenceText = "psion_reference_text@v1";

/** Throws `bad_config` where the profile does not make sense, `artifact_digest_mismatch` where data are other ones. */
export function planWindow(profile: LaneProfile, files: ProfileFiles): WindowPlan {
  try {
    return planned(profile, files);
  } catch (cause) {
    if (cause instanceof PsionicError && cause.name !== "Refusal")
      return refuse("bad_config", `lane profile: ${cause.message}`, cause);
    throw cause;
  }
}

function planned(profile: LaneProfile, files: ProfileFiles): WindowPlan {
  const readModel = new SettingsReader("model", profile.model.settings);
  const base = modelOf(profile.model.name, readModel);
  const seed = new SettingsReader("profile", [{ name: "seed", value: profile.seed }]).whole(
    ...(["seed", undefined, 0, 2 ** 32 - 1] as const),
  );
  const adapter = adapterModel(base, readModel, profile, seed, files);
  readModel.done();
  const { config, length, stride, retainEvery } = trainingOf(profile, seed);
  if (profile.steps < 1 || profile.steps > 1e6)
    refuse("bad_config", `lane profile steps: expected 1 to 1000000, got ${profile.steps}`);
  const ranges = profile.steps * config.sequences * config.accumulation;
  if (ranges > mostRanges)
    refuse(
      "bad_config",
      `lane profile: ${ranges} sequences in a window, expected at most ${mostRanges}, which evidence can name; use fewer steps a window`,
    );
  if (adapter && (config.recompute || config.precision !== "f32"))
    refuse("bad_config", "lane profile: adapters are trained in f32 and without recompute");
  const { documents, heldOut } = documentsOf(profile, files, base.own?.encode);
  const total = documents.reduce((sum, d) => sum + d.length, 0);
  checkRange(total, profile);
  const windows = windowsOf(clipped(documents, profile), length, stride);
  return {
    ...{ profile, model: adapter?.model ?? base.model, adapter, windows, config, retainEvery },
    heldOut: () => {
      const before = clipped(documents, { token_start: 0, token_end: profile.token_start });
      const after = clipped(documents, { token_start: profile.token_end, token_end: total });
      const unread = [...heldOut, ...before, ...after].filter((d) => d.length > length);
      return unread.length > 0 ? windowsOf(unread, length, length) : undefined;
    },
  };
}

/** At most `most` of the windows, evenly chosen. */
export function spread(windows: Windows, most: number): Windows {
  const { starts } = windows;
  if (starts.length <= most) return windows;
  const chosen = Uint32Array.from(
    { length: most },
    (_, i) => starts[Math.floor((i * starts.length) / most)]!,
  );
  return { ...windows, starts: chosen };
}

function trainingOf({ optimizer, steps }: LaneProfile, seed: number) {
  const read = new SettingsReader("optimizer", optimizer.settings);
  const decay = read.number("weight_decay", 0.01, 0, 1);
  const groupsOf = (): TrainerConfig["groups"] => {
    if (optimizer.name === "adam_w") {
      return adamWGroups(decay, read.number("beta1", 0.9, 0, 1), read.number("beta2", 0.95, 0, 1));
    }
    if (optimizer.name === "muon") return muonGroups(read.number("matrix_rate_scale", 10, 1e-6, 1e6), decay);
    return refuse("bad_config", `lane profile optimizer: expected adam_w or muon, got ${optimizer.name}`);
  };
  const length = read.whole("length", undefined, 1, 2 ** 20);
  const config: TrainerConfig = {
    seed,
    sequences: read.whole("sequences", undefined, 1, 65536),
    accumulation: read.whole("accumulation", 1, 1, 65536),
    learningRate: read.number("learning_rate", undefined, 1e-12, 1e3),
    schedule: scheduleOf(read),
    groups: groupsOf(),
    clip: read.number("clip", 1, 1e-9, 1e9),
    precision: read.choice("precision", ["f32", "bf16"], "f32"),
    recompute: read.flag("recompute", false),
  };
  const stride = read.whole("stride", length, 1, 2 ** 20);
  const retainEvery = read.whole("retain_every", Math.ceil(steps / 8), 1, 1e6);
  read.done();
  return { config, length, stride, retainEvery };
}

/** Rates by the step of the run, so that a window can be run on its own. */
function scheduleOf(read: SettingsReader): Schedule {
  const kind = read.choice("schedule", ["constant", "warmup_cosine", "warm_down"], "constant");
  if (kind === "constant") return { kind };
  const total_steps = read.whole("total_steps", undefined, 1, 1e9);
  if (kind === "warm_down")
    return { kind, total_steps, warm_down_steps: read.whole("warm_down_steps", undefined, 1, 1e9) };
  const warmup_steps = read.whole("warmup_steps", 0, 0, 1e9);
  return { kind, total_steps, warmup_steps, min_learning_rate: read.number("min_learning_rate", 0, 0, 1e3) };
}

type Encode = (text: string) => Int32Array;

/** All documents of a profile's data in a row, and those of the same sources that are held out. */
function documentsOf(profile: LaneProfile, files: ProfileFiles, encode: Encode | undefined) {
  if (profile.data.length === 0) refuse("bad_config", "lane profile data: expected at least one source");
  const sources = profile.data.map(({ identity, digest }) => {
    const source = sourceOf(identity, files, encode);
    if (source.found === digest) return source;
    return refuse(
      "artifact_digest_mismatch",
      `data ${identity.slice(0, 120)}: expected SHA-256 ${digest}, got ${source.found}`,
    );
  });
  return {
    documents: sources.flatMap(({ documents }) => documents),
    heldOut: sources.flatMap(({ heldOut }) => heldOut),
  };
}

type Source = {
  readonly documents: readonly Int32Array[];
  readonly heldOut: readonly Int32Array[];
  readonly found: string;
};

function sourceOf(identity: string, files: ProfileFiles, encode: Encode | undefined): Source {
  const corpus = referenceCorpus();
  const reference = (of: (section: EncodedSection) => Int32Array): Source => ({
    ...{ documents: corpus.train.map(of), heldOut: corpus.validation.map(of), found: corpus.digest },
  });
  if (identity === referenceText && encode) return reference(({ section }) => encode(section.text));
  if (identity === corpus.identity) return reference(({ tokens }) => tokens);
  if (!identity.startsWith(tokenPrefix))
    return refuse(
      "bad_config",
      `data ${JSON.stringify(identity.slice(0, 120))}: expected ${encode ? referenceText : corpus.identity} or ${tokenPrefix}<path below the run root>`,
    );
  const path = identity.slice(tokenPrefix.length);
  if (!staysInside(path))
    refuse(
      "bad_config",
      `data ${JSON.stringify(identity.slice(0, 120))}: expected a path below the run root`,
    );
  const bytes = files(path);
  if (bytes.length === 0 || bytes.length % 4 !== 0)
    refuse(
      "bad_config",
      `data ${identity.slice(0, 120)}: expected 32-bit token ids, got ${bytes.length} bytes`,
    );
  return { documents: [new Int32Array(bytes.slice().buffer)], heldOut: [], found: sha256(bytes) };
}

type TokenRange = Pick<LaneProfile, "token_start" | "token_end">;

function checkRange(total: number, { token_start, token_end }: TokenRange): void {
  if (token_start < token_end && token_end <= total) return;
  refuse(
    "bad_config",
    `lane profile: expected tokens from 0 to ${total}, got ${token_start} to ${token_end}`,
  );
}

/** The documents' tokens from `token_start` to `token_end` of all of them in a row. */
function clipped(documents: readonly Int32Array[], { token_start, token_end }: TokenRange): Int32Array[] {
  let at = 0;
  return documents.flatMap((d) => {
    const [from, to] = [Math.max(0, token_start - at), Math.min(d.length, token_end - at)];
    at += d.length;
    return from < to ? [d.subarray(from, to)] : [];
  });
}

type TokenRanges = ExecutionEvidence["data"]["token_ranges"];

/** What steps `first` to `last` of the run read, a range for each sequence, counted in the tokens of all data in a row. */
export function tokenRanges(plan: WindowPlan, first: number, last: number): TokenRanges {
  const { windows, config, profile } = plan;
  const order = new WindowOrder(config.seed, windows.starts.length);
  const perStep = config.sequences * config.accumulation;
  return Array.from({ length: last - first + 1 }, (_, i) => first + i).flatMap((step) =>
    order.indices((step - 1) * perStep, perStep).map((index) => {
      const start = profile.token_start + windows.starts[index]!;
      return { step, start, end: start + windows.length + 1 };
    }),
  );
}

/** Identity of the data that a window reads; the digest is of the tokens of its ranges, i32 little-endian, in order. */
export function windowData(plan: WindowPlan, first: number, last: number): ExecutionEvidence["data"] {
  const token_ranges = tokenRanges(plan, first, last);
  const hasher = new Bun.CryptoHasher("sha256");
  for (const { start, end } of token_ranges) {
    const from = plan.profile.token_start;
    hasher.update(plan.windows.tokens.subarray(start - from, end - from));
  }
  const identity = plan.profile.data.map((d) => d.identity).join("+");
  return { identity, digest: hasher.digest("hex"), token_ranges };
}

/** A step over shapes alone: its calls, and the bytes of what stays and of what it makes. */
export type StepShapes = {
  readonly program: Program;
  readonly stateBytes: number;
  readonly stepBytes: number;
};

const shapesOf = new WeakMap<WindowPlan, StepShapes>();

/** Throws `bad_config` for a profile whose sizes do not go together. */
export function stepShapes(plan: WindowPlan): StepShapes {
  const before = shapesOf.get(plan);
  if (before) return before;
  const device = openDevice("meta");
  try {
    plan.adapter?.hold(device);
    using trainer = new Trainer(device, plan.model, plan.windows, plan.config, "none");
    const stateBytes = device.live().bytes;
    const program = record(device, () => trainer.step());
    const shapes = { program, stateBytes, stepBytes: device.arena.peakBytes };
    shapesOf.set(plan, shapes);
    return shapes;
  } catch (cause) {
    return refuse(
      "bad_config",
      `lane profile: ${cause instanceof Error ? cause.message : String(cause)}`,
      cause,
    );
  } finally {
    plan.adapter?.release(device);
    device.close();
  }
}

/** SHA-256 of the calls of one step, shapes and parameters; the same on every backend. */
export const stepPlanDigest = (plan: WindowPlan): string =>
  planDigest(stepShapes(plan).program).replace(/^sha256:/, "");
