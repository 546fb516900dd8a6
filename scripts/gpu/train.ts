/** Training on the card: its kernels and steps against the CPU, speeds, and two cards against one where there are two. */
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { builtCudaLibrary, type Check, lastLines, ran, root } from "./check.ts";
import { testsOf } from "./ops.ts";

const tests = {
  cpu: ["kernels/cpu/training.test.ts"],
  cuda: ["kernels/cuda/train_ops.test.ts", "kernels/cuda/train_half.test.ts", "src/train/cuda.test.ts"],
} as const;

const cards = (): number => readdirSync("/dev").filter((name) => /^nvidia\d+$/.test(name)).length;

/** What a script says went wrong, its first error before those that follow from it. */
const complaint = (out: string, err: string): string =>
  /^.*(?:[Ee]rror: |\] expected ).*$/m.exec(err)?.[0] ?? lastLines(`${out}\n${err}`);

export async function train({ backend, logs, report }: Check): Promise<void> {
  const library = backend === "cuda" ? builtCudaLibrary() : undefined;
  if (backend === "cuda" && !library) throw new Error("expected a built CUDA library, got none");
  for (const file of tests[backend]) report(await testsOf(file, library, join(logs, "train.log")));
  if (!library) return;
  // on fibers, where this section is tried out, few tokens
  const fibers = library.includes("standin");
  const few = ["--tiny", "--sequences", "1", "--length", "16", "--steps", "1", "--warm", "1"];
  const program = (name: string, ...words: readonly string[]) =>
    ran([process.execPath, join(root, "scripts", "gpu", name), ...words, ...(fibers ? few : [])], {
      ...{ limit: 200, env: { PSIONIC_CUDA_LIBRARY: library } },
    });
  for (const model of ["gpt2", "golf"]) {
    const { code, out, err } = await program("train_speed.ts", model, "--steps", "5", "--warm", "2");
    await Bun.write(join(logs, `train_speed_${model}.log`), `${out}\n${err}\n`);
    const [own, peer = "PyTorch was not run"] = out
      .split("\n")
      .filter((line) => / ms a step, |^PyTorch did not run/.test(line));
    // losses that are no number, or none at all, are no steps
    const ok = code === 0 && own !== undefined && !own.includes("NaN");
    report({ what: `${model}: steps`, required: "run", got: ok ? own : complaint(out, err), ok });
    if (ok) report({ what: `${model}: PyTorch's`, required: "", got: peer });
  }
  if (!fibers && cards() < 2) {
    report({ what: "two cards against one", required: "", got: `not run: ${cards()} card` });
    return;
  }
  const { code, out, err } = await program("train_pair.ts");
  const got = code === 0 ? lastLines(out) : complaint(out, err);
  report({
    what: "two cards against one",
    required: "losses within 1e-3, equal replicas",
    got,
    ok: code === 0,
  });
}
