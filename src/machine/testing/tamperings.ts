/**
 * Forged contributions. Each is a whole run root of a worker in which every digest agrees again, unless the forgery is that one
 * does not. `found` says what a validator must make of it: a verdict or a refusal.
 */
import { readFileSync } from "node:fs";
import { sha256 } from "../../core/digest.ts";
import type { RefusalClass } from "../contract.ts";
import { type ExecutionEvidence, type LaneProfile, retainedKind } from "../evidence.ts";
import type { Bench } from "./bench.ts";
import { artifactOf, artifactPath, type Edits, forge, type Json } from "./reseal.ts";

export type Tampering = {
  readonly name: string;
  readonly found: "reexecution_mismatch" | RefusalClass;
  /** Folder of the forged contribution. */
  readonly make: (bench: Bench) => string;
};

const zeros = "0".repeat(64);
type Step = ExecutionEvidence["steps"][number];
type Change = (e: ExecutionEvidence) => Partial<ExecutionEvidence>;

const evidenceEdit = (change: Change): Edits => ({
  execution_evidence: (value: Json) => {
    const e = value as unknown as ExecutionEvidence;
    return { ...e, ...change(e) };
  },
});

const stepEdit =
  (index: number, change: (step: Step) => Partial<Step>): Change =>
  (e) => ({
    steps: e.steps.map((step, i) => (i === index ? { ...step, ...change(step) } : step)),
  });

/** A number moved by a share of itself, as evidence writes it. */
const moved = (text: string, share: number): string => String(Math.fround(Number(text) * (1 + share)));

/** Claims in the evidence that are not so. */
const claims = (steps: number): Readonly<Record<string, Change>> => ({
  "a forged first loss": stepEdit(0, (s) => ({ loss: moved(s.loss, -1e-4) })),
  "a forged last loss": stepEdit(steps - 1, (s) => ({ loss: moved(s.loss, -0.02) })),
  "a forged norm": stepEdit(1, (s) => ({ gradient_norm: moved(s.gradient_norm, 1e-3) })),
  "a loss that is no number": stepEdit(2, () => ({ loss: "NaN" })),
  "a rate 1 % off in one step": stepEdit(2, (s) => ({ learning_rate: moved(s.learning_rate, 0.01) })),
  "rates 1 % off": (e) => ({
    steps: e.steps.map((s) => ({ ...s, learning_rate: moved(s.learning_rate, 0.01) })),
  }),
  "a step that was skipped": (e) => ({ steps: e.steps.filter((_, i) => i !== 1) }),
  "a last step that was skipped": (e) => ({ steps: e.steps.slice(0, -1) }),
  "no steps": () => ({ steps: [] }),
  "a step twice": (e) => ({ steps: [...e.steps, e.steps.at(-1)!] }),
  "two traces swapped": (e) => {
    const [a, b] = [e.steps[0]!, e.steps[1]!];
    return { steps: [{ ...b, step: a.step }, { ...a, step: b.step }, ...e.steps.slice(2)] };
  },
  "another data window": (e) => ({
    data: {
      ...e.data,
      token_ranges: e.data.token_ranges.map((r) => ({ ...r, start: r.start + 1, end: r.end + 1 })),
    },
  }),
  "two data windows swapped": (e) => {
    const [a, b] = [e.data.token_ranges[0]!, e.data.token_ranges.at(-1)!];
    const inner = e.data.token_ranges.slice(1, -1);
    return {
      data: { ...e.data, token_ranges: [{ ...b, step: a.step }, ...inner, { ...a, step: b.step }] },
    };
  },
  "other data": (e) => ({ data: { ...e.data, digest: zeros } }),
  "data of another name": (e) => ({ data: { ...e.data, identity: "other" } }),
  "another seed": () => ({ seed: "31337" }),
  "another end": () => ({ end_state_digest: zeros }),
  "another start": () => ({ start_state_digest: zeros }),
  "other moments": () => ({ optimizer_state_digest: zeros }),
  "another checkpoint": () => ({ checkpoint_object_digest: zeros }),
  "another profile": () => ({ lane_profile_digest: zeros }),
  "another plan": () => ({ plan_digest: zeros }),
  "evidence of another run": () => ({ run_id: "run-0666" }),
  "evidence of another window": () => ({ window_id: "window-0666" }),
  "evidence of another assignment": () => ({ assignment_id: "assignment-0666" }),
});

/** Documents that are edited, whose digests agree again: the work is not what they say it is. */
const receipts: Readonly<
  Record<string, { readonly found: Tampering["found"]; readonly receipt?: Json; readonly both?: Json }>
> = {
  "a receipt of another operation": { found: "artifact_digest_mismatch", receipt: { operation: "resume" } },
  "a receipt of another role": { found: "artifact_digest_mismatch", receipt: { role: "recovery_source" } },
  "a receipt with an exit code": { found: "artifact_digest_mismatch", receipt: { exit_code: 18 } },
  "a receipt that may be tried again": { found: "artifact_digest_mismatch", receipt: { retryable: true } },
  "a receipt of another execution": {
    ...{ found: "artifact_digest_mismatch", receipt: { window_execution_id: zeros } },
  },
  "a receipt of another node": { found: "artifact_digest_mismatch", receipt: { node_pubkey: "npub1-thief" } },
  "documents of another node": { found: "artifact_digest_mismatch", both: { node_pubkey: "npub1-thief" } },
  "documents of another run": { found: "artifact_digest_mismatch", both: { run_id: "run-0666" } },
  "documents of another contribution": {
    found: "artifact_digest_mismatch",
    both: { contribution_id: zeros },
  },
  "a stage that came from nowhere": {
    found: "artifact_digest_mismatch",
    both: {
      grouped_stage_assignment: {
        ...{ replica_id: "r", stage_id: "a", stage_index: 0, stage_count: 2, stage_role: "ingress" },
        ...{ upstream_stage_id: null, downstream_stage_id: "b", assignment_digest: zeros },
      },
    },
  },
  "a receipt with another count": { found: "artifact_digest_mismatch", receipt: { artifact_count: 3 } },
};

/** Forgeries that need no other training: of claims, documents and what is bound. */
function paperwork(lane: string, honest: string): Tampering[] {
  const steps = artifactOf(honest, "execution_evidence").steps as unknown[];
  const copy =
    (make: (folder: string) => void) =>
    (bench: Bench): string => {
      const folder = bench.copied(honest);
      make(folder);
      return folder;
    };
  const list: Tampering[] = [];
  const add = (name: string, found: Tampering["found"], make: (folder: string) => void): void => {
    list.push({ name: `${lane}: ${name}`, found, make: copy(make) });
  };
  for (const [name, change] of Object.entries(claims(steps.length)))
    add(name, "reexecution_mismatch", (folder) => forge(folder, evidenceEdit(change)));
  for (const [name, { found, receipt, both }] of Object.entries(receipts)) {
    const edit = (value: Json | undefined) => (document: Json) => ({ ...document, ...value });
    add(name, found, (folder) =>
      forge(folder, {}, { receipt: edit({ ...receipt, ...both }), ...(both && { list: edit(both) }) }),
    );
  }
  add("work of another assignment", "stale_assignment", (folder) => {
    const edit = (value: Json) => ({ ...value, assignment_id: "assignment-0666" });
    forge(folder, {}, { receipt: (r) => withOwnId(edit(r)), list: (l) => withOwnId(edit(l)) });
  });
  add("documents of another class", "artifact_digest_mismatch", (folder) => {
    const edit = (value: Json): Json => ({
      ...value,
      work_class: value.work_class === "adapter_training" ? "small_model_local_training" : "adapter_training",
    });
    forge(folder, {}, { receipt: edit, list: edit });
  });
  add("no evidence", "artifact_incomplete", (folder) => forge(folder, { execution_evidence: null }));
  add("no manifest that asked for it", "artifact_incomplete", (folder) =>
    forge(folder, { invocation_manifest: null }),
  );
  add("no checkpoint", "checkpoint_missing", (folder) => forge(folder, { checkpoint_surface: null }));
  add("a checkpoint of another run", "reexecution_mismatch", (folder) =>
    forge(folder, checkpointEdits({ checkpoint_object_digest: "1".repeat(64) }, folder)),
  );
  add("a checkpoint manifest of another run", "reexecution_mismatch", (folder) =>
    forge(folder, { checkpoint_manifest: (m) => ({ ...m, run_id: "run-0666" }) }),
  );
  return list;
}

/** With the id that follows from the documents' own words. */
function withOwnId(value: Json): Json {
  const parts = [value.lane_id, value.run_id, value.window_id, value.assignment_id, value.node_pubkey, ""];
  return {
    ...value,
    contribution_id: sha256(`psionic_train_contribution_id|${parts.map((part) => `${part}|`).join("")}`),
  };
}

/** Surface and manifest that name another checkpoint, and agree with each other. */
function checkpointEdits(named: Json, folder: string): Edits {
  return {
    checkpoint_manifest: (m) => ({ ...m, ...named }),
    checkpoint_surface: (s) => ({
      ...s,
      ...named,
      checkpoint_manifest_digest: artifactOf(folder, "checkpoint_manifest").manifest_digest,
    }),
  };
}

type Range = { readonly step: number; readonly object_digest: string; readonly object_bytes: number };

/** A retained state replaced; the last one is the checkpoint as well. */
export function stateEdits(folder: string, step: number, bytes: Uint8Array): Edits {
  const { retained_states } = artifactOf(folder, "execution_evidence") as unknown as ExecutionEvidence;
  const last = retained_states.at(-1)?.step === step;
  const object = sha256(bytes);
  const named = { checkpoint_object_digest: object, checkpoint_total_bytes: bytes.length };
  return {
    [retainedKind(step)]: bytes,
    ...evidenceEdit((e) => ({
      retained_states: e.retained_states.map(
        (state): Range =>
          state.step === step ? { step, object_digest: object, object_bytes: bytes.length } : state,
      ),
      ...(last && { end_state_digest: object, checkpoint_object_digest: object }),
      ...(last && { optimizer_state_digest: momentsDigest(bytes) }),
    })),
    ...(last && checkpointEdits(named, folder)),
  };
}

type Header = Readonly<
  Record<string, { readonly data_offsets: readonly [number, number]; readonly shape: unknown }>
>;

/** Names and places of a state's tensors. */
function headerOf(bytes: Uint8Array): { readonly begin: number; readonly tensors: Header } {
  const begin = 8 + Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
  return { begin, tensors: JSON.parse(new TextDecoder().decode(bytes.subarray(8, begin))) as Header };
}

/** As evidence has it; of bytes that are no state, whatever. */
function momentsDigest(bytes: Uint8Array): string {
  try {
    const { begin, tensors } = headerOf(bytes);
    const hasher = new Bun.CryptoHasher("sha256");
    for (const [name, { data_offsets }] of Object.entries(tensors)) {
      const [from, to] = data_offsets;
      if (!name.startsWith("model.")) hasher.update(bytes.subarray(begin + from, begin + to));
    }
    return hasher.digest("hex");
  } catch {
    return zeros;
  }
}

/** A state whose moments of a kind are other numbers; `only`: those of its smallest tensor. */
function overwritten(
  path: string,
  kinds: readonly string[],
  change: (value: number, kind: string) => number,
  only?: "smallest",
): Uint8Array {
  const bytes = new Uint8Array(readFileSync(path));
  const { begin, tensors } = headerOf(bytes);
  const view = new DataView(bytes.buffer);
  for (const kind of kinds) {
    const size = ([, { data_offsets }]: [string, Header[string]]): number =>
      data_offsets[1] - data_offsets[0];
    const all = Object.entries(tensors)
      .filter(([name]) => name.startsWith(kind))
      .sort((a, b) => size(a) - size(b));
    for (const [, { data_offsets }] of only ? all.slice(0, 1) : all)
      for (let at = begin + data_offsets[0]; at < begin + data_offsets[1]; at += 4)
        view.setFloat32(at, change(view.getFloat32(at, true), kind), true);
  }
  return bytes;
}

/** A float of the file's data moved; `place`: share of the way through the data. */
export function nudged(path: string, place: number, by: number): Uint8Array {
  const bytes = new Uint8Array(readFileSync(path));
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const begin = 8 + Number(view.getBigUint64(0, true));
  const at = begin + 4 * Math.floor((place * (bytes.length - begin)) / 4);
  view.setFloat32(at, view.getFloat32(at, true) + by, true);
  return bytes;
}

/** Forgeries of states and of training itself, for lanes that retain states. */
function training(lane: string, honest: string): Tampering[] {
  const evidence = artifactOf(honest, "execution_evidence") as unknown as ExecutionEvidence;
  const kept = evidence.retained_states.map(({ step }) => step);
  const list: Tampering[] = [];
  const add = (
    name: string,
    make: (bench: Bench) => string,
    found: Tampering["found"] = "reexecution_mismatch",
  ) => {
    list.push({ name: `${lane}: ${name}`, found, make });
  };
  const spoilt = (make: (folder: string) => Edits) => (bench: Bench) => {
    const folder = bench.copied(honest);
    forge(folder, make(folder));
    return folder;
  };
  for (const step of kept) {
    const path = (folder: string) => artifactPath(folder, retainedKind(step));
    for (const [part, place] of [
      ["first weight", 0],
      ["weight", 0.2],
      ["moment", 0.9],
    ] as const)
      add(
        `a changed ${part} after step ${step}`,
        spoilt((f) => stateEdits(f, step, nudged(path(f), place, 1e-4))),
      );
  }
  const [before, after, end] = [kept[0]!, kept[1]!, kept.at(-1)!];
  for (const [name, bytes] of Object.entries(otherMoments)) {
    const edits = (f: string): Edits => stateEdits(f, end, bytes(artifactPath(f, retainedKind(end))));
    add(name, spoilt(edits));
    // kernels that nobody has turn the comparison of every bit off
    for (const [digest, what] of [
      [undefined, "their digest fits"],
      [zeros, "their digest is forged"],
    ] as const)
      add(
        `${name} on other kernels, ${what}`,
        spoilt((f) => ({ ...edits(f), ...elsewhere(edits(f), digest) })),
      );
  }
  add(
    `steps ${before + 1} to ${after} skipped`,
    spoilt((f) => stateEdits(f, after, new Uint8Array(readFileSync(artifactPath(f, retainedKind(before)))))),
  );
  add(
    "a truncated payload",
    spoilt((f) => {
      const bytes = new Uint8Array(readFileSync(artifactPath(f, retainedKind(before))));
      return stateEdits(f, before, bytes.subarray(0, bytes.length - 5000));
    }),
    "artifact_digest_mismatch",
  );
  add(
    "a state that is missing",
    spoilt(() => ({ [retainedKind(before)]: null })),
    "artifact_incomplete",
  );
  for (const [name, profile] of Object.entries(dishonest))
    add(name, (bench) => {
      const folder = bench.contribute(lane, { profile });
      const own = artifactOf(folder, "execution_evidence") as unknown as ExecutionEvidence;
      forge(folder, {
        ...evidenceEdit(() => claimed(own, evidence)),
        [retainedKind(0)]: new Uint8Array(readFileSync(artifactPath(honest, retainedKind(0)))),
        lane_profile: new Uint8Array(readFileSync(artifactPath(honest, "lane_profile"))),
      });
      return folder;
    });
  add("an old contribution again", (bench) => {
    const folder = bench.contribute(lane, { window: "window-0000", profile: dishonest["a wrong seed"]! });
    return relabelled(bench, folder, honest, evidence);
  });
  return list;
}

const [firsts, seconds] = ["first.", "second."] as const;
/** Moments of the last state that the steps did not come to. */
const otherMoments: Readonly<Record<string, (path: string) => Uint8Array>> = {
  "all moments overwritten": (path) => overwritten(path, [firsts, seconds], () => 0.5),
  "all moments zero": (path) => overwritten(path, [firsts, seconds], () => 0),
  "first moments turned around": (path) => overwritten(path, [firsts], (x) => -x),
  "first moments 1 % larger": (path) => overwritten(path, [firsts], (x) => 1.01 * x),
  "second moments 2 % larger": (path) => overwritten(path, [seconds], (x) => 1.02 * x),
  "moments of another scale": (path) =>
    overwritten(path, [firsts, seconds], (x, kind) => (kind === firsts ? 2 * x : 4 * x)),
  "moments of the smallest tensor overwritten": (path) =>
    overwritten(path, [firsts, seconds], () => 0.25, "smallest"),
};

/** Evidence as an edit makes it, on kernels that nobody has, with another digest of the moments where one is given. */
function elsewhere(edits: Edits, digest: string | undefined): Edits {
  const edit = edits.execution_evidence as (value: Json) => Json;
  const forged = digest === undefined ? {} : { optimizer_state_digest: digest };
  return {
    execution_evidence: (value) => ({
      ...edit(value),
      ...{ kernel_library_digest: zeros, ...forged },
    }),
  };
}

/** What the profile says, claimed of work that was done otherwise. */
function claimed(own: ExecutionEvidence, honest: ExecutionEvidence): Partial<ExecutionEvidence> {
  const { lane_profile_digest, seed, data, plan_digest, start_state_digest } = honest;
  return {
    ...{ lane_profile_digest, seed, data, plan_digest, start_state_digest },
    steps: own.steps.map((step, i) => ({ ...step, learning_rate: honest.steps[i]!.learning_rate })),
  };
}

/** Work of another window put into the folder of an honest contribution's. */
function relabelled(bench: Bench, old: string, honest: string, claims: ExecutionEvidence): string {
  const folder = bench.copied(honest);
  const own = artifactOf(old, "execution_evidence") as unknown as ExecutionEvidence;
  const bytes = (kind: string) => new Uint8Array(readFileSync(artifactPath(old, kind)));
  const states = own.retained_states.map(
    ({ step }) => [retainedKind(step), bytes(retainedKind(step))] as const,
  );
  const { window_id, assignment_id, run_id } = claims;
  forge(folder, {
    ...Object.fromEntries(states),
    execution_evidence: () => ({ ...own, ...claimed(own, claims), window_id, assignment_id, run_id }),
    ...checkpointEdits(
      {
        checkpoint_object_digest: own.end_state_digest,
        checkpoint_total_bytes: own.retained_states.at(-1)!.object_bytes,
      },
      folder,
    ),
  });
  return folder;
}

/** A profile with other settings of its optimiser. */
export function withSettings(profile: LaneProfile, values: Readonly<Record<string, string>>): LaneProfile {
  const { settings } = profile.optimizer;
  const kept = settings.filter(({ name }) => !(name in values));
  const changed = Object.entries(values).map(([name, value]) => ({ name, value }));
  return { ...profile, optimizer: { ...profile.optimizer, settings: [...kept, ...changed] } };
}

const setting = (name: string, value: string) => (profile: LaneProfile) =>
  withSettings(profile, { [name]: value });

/** What a worker trained instead. */
const dishonest: Readonly<Record<string, (profile: LaneProfile) => LaneProfile>> = {
  "trained at a rate 1 % higher": setting("learning_rate", "0.00101"),
  "trained at a rate 1 % lower": setting("learning_rate", "0.00099"),
  "trained with less momentum": setting("beta1", "0.89"),
  "trained with another beta": setting("beta2", "0.96"),
  "a wrong seed": (profile) => ({ ...profile, seed: "31337" }),
  "a swapped data window": (profile) => ({ ...profile, token_start: 64 }),
  "trained on half of the data": (profile) => ({ ...profile, token_end: Math.floor(profile.token_end / 2) }),
};

/** Two forgeries at once, each enough alone. */
function combined(list: readonly Tampering[], honest: string): Tampering[] {
  const changes = Object.entries(
    claims((artifactOf(honest, "execution_evidence").steps as unknown[]).length),
  );
  return list
    .filter(({ found }) => found === "reexecution_mismatch")
    .slice(-10)
    .map((one, i) => {
      const [name, change] = changes[(7 * i) % changes.length]!;
      return {
        name: `${one.name}, and ${name}`,
        found: "reexecution_mismatch",
        make(bench: Bench) {
          const folder = one.make(bench);
          forge(folder, evidenceEdit(change));
          return folder;
        },
      };
    });
}

/** All forgeries of a lane's honest contribution of its own profile. */
export function tamperings(lane: string, honest: string): Tampering[] {
  const retains = (artifactOf(honest, "execution_evidence").retained_states as unknown[]).length > 0;
  const single = [...paperwork(lane, honest), ...(retains ? training(lane, honest) : [])];
  return [...single, ...combined(single, honest)];
}
