/** compute-sanitizer over the small models: bad accesses, then races in shared memory. */
import { appendFileSync } from "node:fs";
import { join } from "node:path";
import { writeLayout } from "../random-layout.ts";
import { shapes } from "../random-model.ts";
import { type Check, goldenFolder, lastLines, psionic, ran } from "./check.ts";

/** Wide enough for the ops that join norms and routing. */
const shape = { ...shapes["tiny-gpt-oss"]!, width: 576 };
const drawn = ["-p", "Hello", "-n", "6", "--temperature", "1", "--top-p", "0.95", "--seed", "1"];
/** What compute-sanitizer returns when it found something. */
const found = 99;

export async function sanitizer({ backend, folder, logs, report }: Check): Promise<void> {
  const small = join(folder, "small.gguf");
  writeLayout(small, { shape, dtype: "q8_0", expertDtype: "mxfp4", seed: 4 });
  const ids = join(folder, "ids.json");
  await Bun.write(ids, JSON.stringify(Array.from({ length: 70 }, (_, i) => (i * 37 + 11) % 300)));
  const out = join(folder, "sanitizer.f32");
  const bench = (model: string, ...words: string[]) =>
    psionic("bench", "-m", model, "-r", "1", "--json", "--backend", backend, ...words);
  const programs: readonly (readonly [string, readonly string[]])[] = [
    [
      "logits of the golden folder",
      psionic("logits", "-m", goldenFolder, "--ids", ids, "--out", out, "--backend", backend),
    ],
    ["prompt, small MXFP4 model", bench(small, "-p", "130", "-n", "0")],
    // eager, recorded and a step ahead; experts by the form for few slots and by rings
    ["decode of 1, 5 and 32", bench(small, "-p", "0", "-n", "4", "-b", "1,5,32", "-d", "100")],
    ["decode with a q8_0 cache", bench(small, "-p", "0", "-n", "4", "-d", "40", "--cache-type", "q8_0")],
    ["decode with an fp8 cache", bench(small, "-p", "0", "-n", "4", "-d", "40", "--cache-type", "fp8")],
    ["tokens drawn on the device", psionic("run", ...drawn, "--backend", backend)],
  ];
  const tool = Bun.which("compute-sanitizer") ?? "/usr/local/cuda/bin/compute-sanitizer";
  for (const check of ["memcheck", "racecheck"]) {
    for (const [what, program] of programs) {
      const checked = [tool, "--tool", check, "--target-processes", "all", "--error-exitcode", String(found)];
      const command = backend === "cuda" ? [...checked, ...program] : program;
      const result = await ran(command, { limit: 90 });
      const text = `${result.out}\n${result.err}`;
      appendFileSync(join(logs, "sanitizer.log"), `== ${check}: ${what}\n${text}\n`);
      const summary = text.match(/^=+ (?:ERROR|RACECHECK) SUMMARY: .*$/m)?.[0].replace(/^=+ /, "");
      report({
        what: `${check}: ${what} (${result.seconds.toFixed(0)} s)`,
        required: "nothing found",
        got: summary ?? (result.code === 0 ? "ended well" : `exit ${result.code}: ${lastLines(text, 2)}`),
        ok: result.code === 0 && (backend === "cpu" || / 0 (errors|hazards)/.test(summary ?? "")),
      });
    }
  }
}
