/**
 * Writes a random-weight GGUF file of a real shape, for benchmarks where no real weights can be had.
 * Usage: bun scripts/make-random-gguf.ts --shape NAME --out FILE [--type q8_0] [--expert-type TYPE] [--seed 1]
 * Output: the file; its size and rate on stderr. Shapes: bun scripts/make-random-gguf.ts --list
 */
import { parseArgs } from "node:util";
import { type DType, fileTypes } from "../src/core/dtype.ts";
import { writeLayout } from "./random-layout.ts";
import { shapes } from "./random-model.ts";

const { values } = parseArgs({
  options: {
    shape: { type: "string" },
    out: { type: "string" },
    type: { type: "string", default: "q8_0" },
    "expert-type": { type: "string" },
    seed: { type: "string", default: "1" },
    list: { type: "boolean", default: false },
  },
});

function dtype(name: string): DType {
  const found = fileTypes.find((type) => type === name);
  if (found) return found;
  throw new Error(`[make-random-gguf] expected a type of ${fileTypes.join(", ")}, got ${name}`);
}

/** As published files of the family have it. */
function defaultExperts(architecture: string): string {
  return architecture === "gpt-oss" ? "mxfp4" : "q4_0";
}

if (values.list) console.log(Object.keys(shapes).join("\n"));
else {
  const shape = shapes[values.shape ?? ""];
  if (!shape || !values.out) {
    throw new Error(
      `[make-random-gguf] expected --out FILE and --shape of ${Object.keys(shapes).join(", ")}`,
    );
  }
  const sparse = shape.experts !== undefined;
  const expertDtype = values["expert-type"] ?? (sparse ? defaultExperts(shape.architecture) : undefined);
  const start = performance.now();
  const bytes = writeLayout(values.out, {
    shape,
    dtype: dtype(values.type),
    ...(expertDtype && { expertDtype: dtype(expertDtype) }),
    seed: Number(values.seed),
  });
  const seconds = (performance.now() - start) / 1000;
  console.error(`${values.out}: ${(bytes / 1e9).toFixed(2)} GB in ${seconds.toFixed(1)} s`);
}
