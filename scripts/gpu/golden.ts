/** Logits on the device against f32 evaluations: the golden folder by transformers', random files by the CPU's. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { openDevice } from "../../src/backends/index.ts";
import { type DType, dtypes } from "../../src/core/dtype.ts";
import { normalisedSquaredError, openSession } from "../../src/models/testing/session.ts";
import { dequantisedTwin, writeModel } from "../../src/models/testing/variants.ts";
import type { Device } from "../../src/runtime/device.ts";
import { type ModelShape, type RandomModel, randomModel, shapes } from "../random-model.ts";
import { type Check, goldenFolder, openChecked } from "./check.ts";

/** Granted by the issue: with activations in a float type, and with activations quantised to 8 bits, as on the CPU. */
const limits = { cuda: 1e-4, cpu: 1e-3 };
const ids = Array.from({ length: 40 }, (_, i) => (i * 37 + 11) % 300);
const types = Object.keys(dtypes).filter((t) => t !== "i32") as DType[];
const llama = shapes["tiny-llama"]!;
/** All experts are used: with fewer, rounding decides the near ties of a random router either way. */
const gptOss: ModelShape = { ...shapes["tiny-gpt-oss"]!, expertsUsed: 8 };

export function golden({ backend, folder, report }: Check): void {
  const limit = limits[backend];
  const device = openChecked(backend);
  const row = (what: string, error: number) =>
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
    check(`llama in ${dtype}`, randomModel({ shape: llama, dtype, seed: 1 }));
    check(
      `gpt-oss, experts in ${dtype}`,
      randomModel({ shape: gptOss, dtype: "q8_0", expertDtype: dtype, seed: 2 }),
    );
  }
  device.close();

  function check(what: string, model: RandomModel): void {
    try {
      row(what, errorAgainstTwin(device, join(folder, "golden.gguf"), model));
    } catch (error) {
      const text = error instanceof Error ? error.message : String(error);
      // a type that a device does not have is refused by name
      const refused = what.endsWith("f64") && backend === "cuda" && /f64/i.test(text);
      report({
        what,
        required: refused ? "refused by name" : "logits",
        got: text.slice(0, 100),
        ok: refused,
      });
    }
  }
}

function errorAgainstTwin(device: Device, path: string, model: RandomModel): number {
  const got = logits(device, writeModel(path, model), [ids]);
  const twin = writeModel(path, dequantisedTwin(model));
  const isCpu = device.name === "cpu";
  const cpu = isCpu ? device : openDevice("cpu", { threads: 4 });
  try {
    return normalisedSquaredError(got, logits(cpu, twin, [ids]));
  } finally {
    if (!isCpu) cpu.close();
  }
}

function logits(device: Device, path: string, parts: readonly (readonly number[])[]): Float32Array {
  const session = openSession(device, path, { cacheType: "f32" });
  try {
    return session.run(parts);
  } finally {
    session.close();
  }
}
