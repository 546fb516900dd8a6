/** Every op of the kernel library against the CPU's reference, beside the kernels, and on CUDA the tests of what stands on them. */
import { appendFileSync } from "node:fs";
import { basename, join } from "node:path";
import { builtCudaLibrary, type Check, lastLines, type Row, ran, root } from "./check.ts";

/** Test files at once: each is a process with its own context on the card. */
const lanes = 4;

/** Runs the tests of a file of the checkout, on the device where a library is named. */
export async function testsOf(file: string, library: string | undefined, log: string): Promise<Row> {
  const command = [process.execPath, "test", "--timeout", "60000", `./${file}`];
  const env: Record<string, string> = library ? { PSIONIC_CUDA_LIBRARY: library } : {};
  const { code, err, seconds } = await ran(command, { limit: 100, env });
  const count = (what: string) => Number(new RegExp(`^ *(\\d+) ${what}$`, "m").exec(err)?.[1] ?? 0);
  appendFileSync(log, `== ${file}\n${err}\n`);
  const only = code === 0 && count("pass") === 0 && count("skip") > 0;
  const why = code === 0 ? "" : `: ${err.match(/^\(fail\).*$/m)?.[0] ?? lastLines(err)}`;
  return {
    what: `${basename(file) === "cuda.test.ts" ? file : basename(file, ".test.ts")} against the CPU (${seconds.toFixed(1)} s)`,
    required: "0 fail",
    got: only ? `${count("skip")} skipped here` : `${count("pass")} pass, ${count("fail")} fail${why}`,
    ...(!only && { ok: code === 0 && count("pass") > 0 }),
  };
}

/** Tests of src that compute on a CUDA library. */
async function testsAbove(): Promise<string[]> {
  const found = await Array.fromAsync(new Bun.Glob("src/**/*.test.ts").scan(root));
  const texts = await Promise.all(found.map((file) => Bun.file(join(root, file)).text()));
  return found.filter((_, i) => texts[i]!.includes("cudaLibrary"));
}

export async function ops({ backend, logs, report }: Check): Promise<void> {
  const where = join("kernels", backend);
  const beside = await Array.fromAsync(new Bun.Glob("*.test.ts").scan(join(root, where)));
  const above = backend === "cuda" ? await testsAbove() : [];
  const files = [...beside.map((file) => join(where, file)), ...above].sort();
  const library = backend === "cuda" ? builtCudaLibrary() : undefined;
  if (backend === "cuda" && !library) throw new Error("expected a built CUDA library, got none");
  let next = 0;
  const lane = async () => {
    while (next < files.length) {
      const file = files[next++]!;
      report(await testsOf(file, library, join(logs, "ops.log")));
    }
  };
  await Promise.all(Array.from({ length: lanes }, lane));
}
