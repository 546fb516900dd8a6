/**
 * The default model's greedy answers, on the device and on the CPU: with the file's weights, and with the same weights as f32.
 * The CPU rounds activations to 8 bits for quantised weights, CUDA to bf16, so where two tokens are nearly equal the answer
 * of the f32 weights decides.
 */
import { join } from "node:path";
import { openDevice } from "../../src/backends/index.ts";
import { dequantisedTwin, readModel, writeModel } from "../../src/models/testing/variants.ts";
import { type Check, json, psionic, root } from "./check.ts";

const questions = [
  "Why does HTTPS matter?",
  "What does a server do with a prefix cache?",
  "How do I build psionic from source?",
  "Which file formats can be loaded?",
];
type Answer = { readonly content: string; readonly reasoning?: string };

const builtIn = join(root, "fixtures", "docs-oss-13m-mxfp4.gguf");
const text = (a: Answer): string => `${a.reasoning ?? ""}\n${a.content}`;

function compared(device: string, cpu: string): string {
  if (device === cpu) return `the same ${cpu.length} characters`;
  let at = 0;
  while (at < cpu.length && device[at] === cpu[at]) at++;
  return `differs at character ${at} of ${cpu.length}`;
}

export async function chat({ backend, folder, report }: Check): Promise<void> {
  const host = openDevice("cpu");
  const twin = writeModel(join(folder, "built-in-f32.gguf"), dequantisedTwin(readModel(builtIn)));
  host.close();
  for (const question of questions) {
    const ask = (on: string, model: string) =>
      json<Answer>(psionic("run", "-m", model, "-p", question, "-n", "160", "--backend", on, "--json"), 60);
    const [device, cpu] = [await ask(backend, builtIn), await ask("cpu", builtIn)];
    const same = compared(text(device), text(cpu));
    if (text(device) === text(cpu)) {
      report({ what: `"${question}"`, required: "the CPU's answer", got: same, ok: device.content !== "" });
      continue;
    }
    const exact = text(await ask("cpu", twin));
    report({
      what: `"${question}"`,
      required: "the CPU's answer, or that of the weights as f32",
      got: `${same}; of f32: ${compared(text(device), exact)}`,
      ok: device.content !== "" && text(device) === exact,
    });
  }
}
