/**
 * Writes a random-weight GGUF file of a real shape, for benchmarks where no real weights can be had.
 * Usage: bun scripts/make-random-gguf.ts --shape NAME --out FILE [--type q8_0] [--expert-type TYPE] [--seed 1]
 * Output: the file; its size and rate on stderr. Shapes: bun scripts/make-random-gguf.ts --list    Exits 1 on wrong options.
 */
import { parseArgs } from "node:util";
import { type DType, fileTypes } from "../src/core/dtype.ts";
import { writeLayout } from "./random-layout.ts";
import { publishedExperts, type RandomModelOptions, shapes } from "./random-model.ts";

function fail(message: string): never {
  console.error(`[make-random-gguf] ${message}`);
  process.exit(1);
}

function options() {
  try {
    return parseArgs({
      options: {
        shape: { type: "string" },
        out: { type: "string" },
        type: { type: "string", default: "q8_0" },
        "expert-type": { type: "string" },
        seed: { type: "string", default: "1" },
        list: { type: "boolean", default: false },
      },
    }).values;
  } catch (error) {
    fail(error instanceof Error ? error.message : String(error));
  }
}

const types = fileTypes.filter((type) => type !== "i32");

function dtype(name: string): DType {
  return types.find((type) => type === name) ?? fail(`expected a type of ${types.join(", ")}, got ${name}`);
}

function seedOf(text: string): number {
  const seed = Number(text);
  return Number.isInteger(seed) && seed >= 0 ? seed : fail(`expected --seed N from 0, got ${text}`);
}

function write(path: string, asked: RandomModelOptions): number {
  try {
    return writeLayout(path, asked);
  } catch (error) {
    fail(error instanceof Error ? error.message : String(error));
  }
}

const values = options();
if (values.list) console.log(Object.keys(shapes).join("\n"));
else {
  const shape = shapes[values.shape ?? ""];
  if (!shape || !values.out) fail(`expected --out FILE and --shape of ${Object.keys(shapes).join(", ")}`);
  const published = publishedExperts(shape);
  if (!published && values["expert-type"])
    fail(`expected no --expert-type for ${values.shape}, which has no experts`);
  const expertDtype = values["expert-type"] ?? published;
  const start = performance.now();
  const asked = {
    ...{ shape, dtype: dtype(values.type), seed: seedOf(values.seed) },
    ...(expertDtype && { expertDtype: dtype(expertDtype) }),
  };
  const bytes = write(values.out, asked);
  const seconds = (performance.now() - start) / 1000;
  console.error(`${values.out}: ${(bytes / 1e9).toFixed(2)} GB in ${seconds.toFixed(1)} s`);
}
