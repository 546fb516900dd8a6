/** Who makes a run's matrix products, over the stand-in of cuBLASLt where there are no devices. */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { cublasltLibraryVariable, openDevice, type ProductShape } from "../backends/index.ts";
import { cudaLibrary, onFibers } from "../backends/testing/cuda_library.ts";
import { sha256 } from "../core/digest.ts";
import { windowsOf } from "../data/batches.ts";
import { referenceCorpus } from "../data/reference_corpus.ts";
import type { Device } from "../runtime/device.ts";
import { referencePilot } from "./lanes/reference_pilot.ts";
import { gpt2 } from "./models/gpt2.ts";
import { adamWGroups } from "./optimizer/config.ts";
import { chooseProducts, ProductShapes, productsVariable } from "./products.ts";
import type { Run } from "./run_root.ts";
import { Trainer } from "./trainer.ts";

setDefaultTimeout(120_000);

const folder = mkdtempSync(join(tmpdir(), "psionic-products-"));
const recordPath = (run: Run): string => join(run.root, "manifests/matrix_products.json");
const shape: ProductShape = {
  ...{ batch: 1, m: 64, n: 72, k: 64 },
  ...{ transA: false, transB: true, dtype: "f32" },
};

let runs = 0;
function newRun(): Run {
  const git = { selected_git_ref: "HEAD", git_commit_sha: "0".repeat(40) } as Run["git"];
  const root = join(folder, `run${++runs}`);
  const { defaults: settings } = referencePilot;
  return { root, runId: "run", lane: referencePilot, backend: "cuda", git, settings };
}

const record = (run: Run) => JSON.parse(readFileSync(recordPath(run), "utf8"));

async function standin(): Promise<string> {
  const library = join(folder, "libcublaslt_standin.so");
  const source = join(import.meta.dir, "../../kernels/standin/cublaslt.cpp");
  const words = ["g++", "-O2", "-std=c++17", "-shared", "-fPIC", source, "-o", library];
  expect(await Bun.spawn(words).exited).toBe(0);
  return library;
}

describe.skipIf(!cudaLibrary || !onFibers)("matrix products of a run", () => {
  const before = { ...process.env };
  let device: Device;
  beforeAll(() => {
    process.env.PSIONIC_CACHE_DIR = join(folder, "cache");
    delete process.env[productsVariable];
    device = openDevice("cuda");
  });
  afterAll(() => {
    device.close();
    for (const name of ["PSIONIC_CACHE_DIR", productsVariable, cublasltLibraryVariable]) {
      if (before[name] === undefined) delete process.env[name];
      else process.env[name] = before[name];
    }
  });
  const choose = (run: Run, fromStep = 0, mode?: string): string => {
    if (mode) process.env[productsVariable] = mode;
    try {
      using products = chooseProducts(run, device, [shape], fromStep);
      return products.summary;
    } finally {
      delete process.env[productsVariable];
    }
  };

  test("without cuBLASLt they are psionic's, which is recorded; asked for, it is missed by name", () => {
    process.env[cublasltLibraryVariable] = join(folder, "none.so");
    const run = newRun();
    expect(choose(run)).toBe("psionic");
    expect(record(run).stretches).toMatchObject([{ from_step: 0, mode: "measure", cublaslt: null }]);
    expect(() => choose(newRun(), 0, "on")).toThrow(/expected cuBLASLt .* to load/);
    expect(() => choose(newRun(), 0, "sometimes")).toThrow(/expected one of measure, on, off, got sometimes/);
  });

  test("the faster is measured once a machine, and the run goes on with what it began with", async () => {
    process.env[cublasltLibraryVariable] = await standin();
    const [first, second] = [newRun(), newRun()];
    // plain loops are faster than kernels on fibers
    expect(choose(first)).toBe("cublaslt_13.1.1_for_1_of_1");
    const [stretch] = record(first).stretches;
    const [product] = stretch.products;
    expect(product).toMatchObject({ shape, by: "cublaslt" });
    expect(product.algorithm).toMatch(/^[0-9a-f]{128}$/);
    expect(product.cublaslt_ms).toBeLessThan(0.97 * product.psionic_ms);
    choose(second);
    expect(record(second).stretches[0].products).toEqual(stretch.products);
    const text = readFileSync(recordPath(first), "utf8");
    expect(choose(first, 5)).toBe("cublaslt_13.1.1_for_1_of_1");
    expect(readFileSync(recordPath(first), "utf8")).toBe(text);
  });

  test("a machine with another version cannot go on, unless it is told to leave cuBLASLt out", () => {
    const run = newRun();
    choose(run, 0, "on");
    const text = readFileSync(recordPath(run), "utf8");
    writeFileSync(recordPath(run), text.replace('"13.1.1"', '"12.8.5"'));
    expect(() => choose(run, 4)).toThrow(
      /expected cuBLASLt 12.8.5, with which this run computes, got 13.1.1. Install/,
    );
    expect(choose(run, 4, "off")).toBe("psionic");
    expect(record(run).stretches).toMatchObject([
      { from_step: 0, mode: "on", cublaslt: "12.8.5" },
      { from_step: 4, mode: "off", cublaslt: null, products: [] },
    ]);
    expect(choose(run, 6)).toBe("psionic");
  });

  test("algorithms that are no cuBLASLt's are refused, not run", () => {
    const run = newRun();
    choose(run, 0, "on");
    const text = readFileSync(recordPath(run), "utf8");
    const algorithm = /"algorithm": "([0-9a-f]+)"/.exec(text)![1]!;
    for (const [wrong, message] of [
      ["ab", /64 bytes in hex/],
      ["f".repeat(128), /an algorithm of cuBLASLt/],
    ] as const) {
      writeFileSync(recordPath(run), text.replace(algorithm, wrong));
      expect(() => choose(run, 1)).toThrow(message);
    }
  });

  test("runs that are not on CUDA, or began before there was a choice, have none", () => {
    const old = newRun();
    expect(choose(old, 7)).toBe("none");
    expect(existsSync(recordPath(old))).toBe(false);
    expect(choose({ ...newRun(), backend: "cpu" })).toBe("none");
  });

  test("steps with cuBLASLt: the same bits each time, losses close to psionic's", () => {
    const model = gpt2({ width: 64, layers: 1, heads: 2, vocabularySize: 320, contextLength: 8 });
    const windows = windowsOf(
      referenceCorpus().train.map((s) => s.tokens),
      8,
      8,
    );
    const train = (shapes?: ProductShapes) => {
      if (shapes) device.listeners.add(shapes.hear);
      using trainer = new Trainer(device, model, windows, {
        ...{ seed: 7, sequences: 8, accumulation: 1, learningRate: 3e-3, clip: 1, recompute: false },
        ...{ precision: "bf16", groups: adamWGroups(0.01), schedule: { kind: "constant" } },
      });
      // of one key the first pass runs, the second is recorded, the third launched
      const losses = [trainer.step(), trainer.step(), trainer.step()].map(({ loss }) => loss);
      if (shapes) device.listeners.delete(shapes.hear);
      return { losses, bytes: sha256(device.download(trainer.parameters.values)) };
    };
    const shapes = new ProductShapes();
    const own = train(shapes);
    expect(shapes.all.length).toBeGreaterThanOrEqual(4);
    process.env[productsVariable] = "on";
    {
      using products = chooseProducts(newRun(), device, shapes.all, 0);
      expect(products.summary).toBe(`cublaslt_13.1.1_for_${shapes.all.length}_of_${shapes.all.length}`);
      const [theirs, again] = [train(), train()];
      expect(again.bytes).toEqual(theirs.bytes);
      expect(theirs.bytes).not.toEqual(own.bytes);
      for (const [i, loss] of theirs.losses.entries())
        expect(Math.abs(loss - own.losses[i]!)).toBeLessThan(1e-2);
    }
    delete process.env[productsVariable];
  });
});
