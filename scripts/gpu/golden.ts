/** Logits on the device against f32 evaluations: the golden folder by transformers', random files by the CPU's. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { openDevice } from "../../src/backends/index.ts";
import { fileTypes, isQuantised } from "../../src/core/dtype.ts";
import { normalisedSquaredError, openSession } from "../../src/models/testing/session.ts";
import { dequantisedTwin, writeModel } from "../../src/models/testing/variants.ts";
import type { Device } from "../../src/runtime/device.ts";
import { type ModelShape, type RandomModel, randomModel, shapes } from "../random-model.ts";
import { type Check, goldenFolder, openChecked } from "./check.ts";

/**
 * Granted to files of floats, and to files with quantised matrices, before which activations are rounded to 8 bits: to
 * bf16 on CUDA, to integers with a scale on the CPU.
 */
const floatLimit = 1e-4;
const quantisedLimit = 1e-3;
const ids = Array.from({ length: 40 }, (_, i) => (i * 37 + 11) % 300);
const types = fileTypes.filter((t) => t !== "i32");
const llama = shapes["tiny-llama"]!;
/** All experts are used: with fewer, rounding decides the near ties of a random router either way. */
const gptOss: ModelShape = { ...shapes["tiny-gpt-oss"]!, expertsUsed: 8 };

export function golden({ backend, folder, report }: Check): void {
  const device = openChecked(backend);
  const cpu = backend === "cpu" ? device : openDevice("cpu", { threads: 4 });
  const row = (what: string, error: number, limit = floatLimit) =>
    report({
      what,
      required: `error < ${limit.toExponential(0)}`,
      got: error.toExponential(1),
      ok: error < limit,
    });

  const goldenIds = JSON.parse(readFileSync(join(goldenFolder, "input_ids.json"), "utf8")).flat() as number[];
  const reference = new Float32Array(readFileSync(join(goldenFolder, "logits.f32")).buffer.slice(0));
  row(
    "golden gpt_oss folder, all at once",
    normalisedSquaredError(logits(device, goldenFolder, [goldenIds]), reference),
  );
  const single = logits(
    device,
    goldenFolder,
    goldenIds.map((id) => [id]),
  );
  row("golden gpt_oss folder, one by one", normalisedSquaredError(single, reference));

  for (const dtype of types) {
    const limit = isQuantised(dtype) ? quantisedLimit : floatLimit;
    const file = join(folder, "golden.gguf");
    const dense = randomModel({ shape: llama, dtype, seed: 1 });
    row(`llama in ${dtype}`, errorAgainstTwin(device, cpu, file, dense), limit);
    const sparse = randomModel({ shape: gptOss, dtype: "q8_0", expertDtype: dtype, seed: 2 });
    row(`gpt-oss in q8_0, experts in ${dtype}`, errorAgainstTwin(device, cpu, file, sparse), quantisedLimit);
  }
  if (cpu !== device) cpu.close();
  device.close();
}

/** The device's logits of a file against the CPU's of the same file with its weights as f32. */
function errorAgainstTwin(device: Device, cpu: Device, path: string, model: RandomModel): number {
  const got = logits(device, writeModel(path, model), [ids]);
  return normalisedSquaredError(got, logits(cpu, writeModel(path, dequantisedTwin(model)), [ids]));
}

function logits(device: Device, path: string, parts: readonly (readonly number[])[]): Float32Array {
  const session = openSession(device, path, { cacheType: "f32" });
  try {
    return session.run(parts);
  } finally {
    session.close();
  }
}
