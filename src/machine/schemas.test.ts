/** Exported JSON Schema against what is written, by a validator that knows nothing of ours. */
import { expect, test } from "bun:test";
import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import Ajv from "ajv/dist/2020";
import { parseExactJson } from "../core/json_reader.ts";
import { command } from "../terminal/command.ts";
import { schema } from "./cli/schema.ts";
import { validationPacket } from "./cli/validate.ts";
import { actualLane } from "./contract.ts";
import { verified } from "./documents.ts";
import { pointerPath } from "./layout.ts";
import { documents, exportedSchema } from "./schemas.ts";
import { Bench } from "./testing/bench.ts";
import { LaneScene } from "./testing/lane_scene.ts";
import { bound, Scene } from "./testing/scene.ts";
import { StagedScene } from "./testing/stages.ts";

const ajv = new Ajv({ strict: true, allErrors: true });
const validators = new Map([...documents].map(([id, doc]) => [id, ajv.compile(exportedSchema(doc))]));

function files(folder: string): string[] {
  return readdirSync(folder).flatMap((name) => {
    const path = join(folder, name);
    return statSync(path).isDirectory() ? files(path) : [path];
  });
}

/** What a document names as its schema; whatever names one must be among ours. */
function checked(values: readonly unknown[]): ReadonlySet<string> {
  const seen = new Set<string>();
  for (const value of values) {
    const id = (value as { schema_version?: string }).schema_version;
    // settings of adapters are as PEFT has them
    if (id === undefined) continue;
    const validate = validators.get(id);
    expect([id, validate?.(value), validate?.errors]).toEqual([id, true, null]);
    // and it is read again as it was written
    const text = JSON.stringify(value);
    verified(documents.get(id)!, parseExactJson(text, id), id);
    seen.add(id);
  }
  return seen;
}

const documentsBelow = (folder: string): unknown[] =>
  files(folder)
    .filter((path) => path.endsWith(".json"))
    .map((path) => JSON.parse(readFileSync(path, "utf8")));

const written = new Set<string>();

test("every document that runs leave has a schema and fits it: the demo lane and packets", () => {
  using scene = new Scene();
  const packets = [
    scene.run("start", { coordination: bound, dry_run: true }),
    scene.run("start", { coordination: bound }),
    scene.run("serve_checkpoint", { coordination: bound }),
    scene.run("validate_contribution"),
    scene.run("start", { lane_id: "none" }),
  ];
  for (const id of checked([...documentsBelow(scene.root), ...packets])) written.add(id);
}, 30_000);

test("the actual lane, whatever it does, and a peer that joins", () => {
  using scene = new LaneScene(actualLane);
  scene.do("start");
  scene.do("record_checkpoint", { inject_eval_worker_unavailable: true });
  scene.do("backup", { inject_failed_upload: true });
  scene.do("record_checkpoint");
  scene.do("backup");
  scene.do("decide_continue_restart");
  scene.do("resume", { dry_run: true });
  scene.do("serve_checkpoint", { peer_node_pubkey: "npub1-node-b" });
  scene.validate();
  const pointer = join(scene.root, pointerPath);
  writeFileSync(pointer, "{");
  expect(scene.do("resume", { coordination: { ...bound, window_id: "window-0002" } }).outcome).toBe(
    "succeeded",
  );
  for (const id of checked(documentsBelow(scene.folder))) written.add(id);
}, 30_000);

test("adapters, and a window of two stages that is recovered and judged", async () => {
  using bench = new Bench();
  bench.validate(bench.contribute("adapter"));
  using scene = new StagedScene(2);
  await scene.runAll();
  for (const [operation, changes] of Object.entries({
    record_checkpoint: { checkpoint_label: "end", checkpoint_ref: "checkpoint://end", optimizer_step: 8 },
    resume: {},
  }))
    expect((await scene.spawn(0, operation, changes).ended).code).toBe(0);
  const words = ["--run-root", join(scene.folder, "v"), "--contribution", scene.contribution(0)];
  validationPacket([...words, "--challenge-id", "c"], { environment: scene.environment() });
  for (const id of checked([...documentsBelow(bench.folder), ...documentsBelow(scene.folder)]))
    written.add(id);
}, 60_000);

test("nearly all there are were among them", () => {
  // proofs of outcomes and indices of handoffs have tests of their own; observations and requests are others' to write
  const elsewhere =
    /proof|handoff_index|observation|automatic_execution|runtime_attestation|invocation_manifest/;
  expect([...documents.keys()].filter((id) => !written.has(id) && !elsewhere.test(id))).toEqual([]);
});

test("what does not fit is told", () => {
  using scene = new Scene();
  const good = JSON.parse(JSON.stringify(scene.run("start", { dry_run: true })));
  const validate = validators.get("psionic.train.status_packet.v1")!;
  expect(validate(good)).toBe(true);
  for (const change of [
    { outcome: "done" },
    { exit_code: 256 },
    { exit_code: 1.5 },
    { detail: null },
    { more: 1 },
  ])
    expect(validate({ ...good, ...change })).toBe(false);
  const { refusal_class: _, ...rest } = good;
  expect(validate(rest)).toBe(false);
});

test("ids are unique and versioned; the command is one", () => {
  for (const id of documents.keys()) expect(id).toMatch(/^(psionic\.train|psion)\.[a-z0-9_]+\.v1$/);
  expect(documents.size).toBeGreaterThan(30);
  expect(command(schema).meta.name).toBe("schema");
});
