/** Every op that the table gives Metal is in the library; every other is in the table of what is refused. */
import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { hasBackend } from "../../src/ir/op.ts";
import { ops } from "../../src/ir/ops/index.ts";
import { trainingOps } from "../../src/ir/ops/training.ts";
import { metal, path } from "./library.ts";

describe.skipIf(!path)("the Metal library", () => {
  const isMissing = (name: string): boolean => !(`psi_${name}` in metal);

  test("has every op of models and of training that the table gives Metal", () => {
    const wanted = ops.filter((op) => hasBackend(op, "metal")).map(({ name }) => name);
    const training = new Set(trainingOps.map(({ name }) => name));
    expect(wanted.filter((name) => training.has(name)).length).toBeGreaterThan(30);
    expect(wanted.filter(isMissing)).toEqual([]);
  });

  test("what it has not is in the table of what is refused", async () => {
    const page = await Bun.file(join(import.meta.dir, "../../docs/metal.md")).text();
    const section = page.split("## What is refused, and why")[1]!.split("\n## ")[0]!;
    const refused = [...section.matchAll(/^\| ([^|]*) \|/gm)].map((row) => row[1]).join("\n");
    const missing = ops.map(({ name }) => name).filter(isMissing);
    expect(missing.length).toBeGreaterThan(0);
    expect(missing.filter((name) => !refused.includes(`\`${name}\``))).toEqual([]);
  });
});
