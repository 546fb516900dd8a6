/** Exported JSON Schema against what is written, by a validator that knows nothing of ours. */
import { expect, test } from "bun:test";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import Ajv from "ajv/dist/2020";
import { command } from "../terminal/command.ts";
import { schema } from "./cli/schema.ts";
import { documents, exportedSchema } from "./schemas.ts";
import { bound, Scene } from "./testing/scene.ts";

const ajv = new Ajv({ strict: true, allErrors: true });
const validators = new Map([...documents].map(([id, doc]) => [id, ajv.compile(exportedSchema(doc))]));

function files(folder: string): string[] {
  return readdirSync(folder).flatMap((name) => {
    const path = join(folder, name);
    return statSync(path).isDirectory() ? files(path) : [path];
  });
}

test("every document that runs leave fits the schema that it names", () => {
  using scene = new Scene();
  const packets = [
    scene.run("start", { coordination: bound }),
    scene.run("serve_checkpoint", { coordination: bound }),
    scene.run("validate_contribution"),
    scene.run("start", { lane_id: "none" }),
  ];
  const seen = new Set<string>();
  const found: unknown[] = files(scene.root)
    .filter((path) => path.endsWith(".json"))
    .map((path) => JSON.parse(readFileSync(path, "utf8")));
  for (const value of [...found, ...packets]) {
    const id = (value as { schema_version: string }).schema_version;
    const validate = validators.get(id);
    if (!validate) continue;
    seen.add(id);
    expect([id, validate(value), validate.errors]).toEqual([id, true, null]);
  }
  expect([...seen].filter((id) => id.startsWith("psionic.train.")).length).toBeGreaterThanOrEqual(12);
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
