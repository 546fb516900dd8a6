/** Every op of serving is in the library, and every op that the library lacks is in the list of what is refused. */
import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { hasBackend } from "../../src/ir/op.ts";
import { ops } from "../../src/ir/ops/index.ts";
import { trainingOps } from "../../src/ir/ops/training.ts";
import { metal, path } from "./library.ts";

describe.skipIf(!path)("the Metal library", () => {
  const isMissing = (name: string): boolean => !(`psi_${name}` in metal);

  test("has every op that models call", () => {
    const training = new Set(trainingOps.map(({ name }) => name));
    const wanted = ops.filter((op) => hasBackend(op, "metal") && !training.has(op.name));
    expect(wanted.map(({ name }) => name).filter(isMissing)).toEqual([]);
  });

  test("what it has not is in the list of what is refused", async () => {
    const page = await Bun.file(join(import.meta.dir, "../../docs/metal.md")).text();
    const missing = ops.map(({ name }) => name).filter(isMissing);
    expect(missing.filter((name) => !page.includes(`\`${name}\``))).toEqual([]);
  });
});
