/** What the sections of gpu-check share: rows of the table, what is under test, programs that are run. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { openDevice } from "../../src/backends/index.ts";
import { Device } from "../../src/runtime/device.ts";

export const root = join(import.meta.dir, "..", "..");

export type CheckBackend = "cpu" | "cuda";

/** One line of the table; `ok` undefined: a figure nothing is required of. */
export type Row = {
  readonly what: string;
  readonly required: string;
  readonly got: string;
  readonly ok?: boolean;
};

/** What a section is given. */
export type Check = {
  readonly backend: CheckBackend;
  /** A random file of a published layout, for what needs a large model. */
  readonly largeModel: string;
  /** Folder for files that only this run needs. */
  readonly folder: string;
  /** Folder for logs to keep. */
  readonly logs: string;
  /** Notes a row as soon as it is known, so that a section that is stopped keeps what it had. */
  report(row: Row): void;
};

export type Section = (check: Check) => Promise<void> | void;

/** A row that holds where `value` keeps to a limit. */
export function atLeast(what: string, value: number, least: number, digits = 0): Row {
  return { what, required: `>= ${least}`, got: value.toFixed(digits), ok: value >= least };
}
export function atMost(what: string, value: number, most: number, digits = 2): Row {
  return { what, required: `<= ${most}`, got: value.toFixed(digits), ok: value <= most };
}

/** Opens the device under test; `eager` calls every step instead of launching a recorded one. */
export function openChecked(backend: CheckBackend, { eager = false } = {}): Device {
  const device = backend === "cpu" ? openDevice("cpu") : openDevice("cuda");
  return eager ? new Device({ ...device.backend, captures: false, replay: (_key, step) => step() }) : device;
}

/** The program under test, as words of a command line. */
export function psionic(...words: readonly string[]): string[] {
  return [process.execPath, join(root, "src", "main.ts"), ...words];
}

export type Ran = {
  readonly code: number;
  readonly out: string;
  readonly err: string;
  readonly seconds: number;
  /** From the start to the first byte on stdout. */
  readonly firstByteSeconds: number;
};

/** Runs a program to its end, or kills it after `limit` seconds. */
export async function ran(
  command: readonly string[],
  { limit = 120, env = {} }: { readonly limit?: number; readonly env?: Record<string, string> } = {},
): Promise<Ran> {
  const start = performance.now();
  const child = Bun.spawn([...command], {
    ...({ stdin: "ignore", stdout: "pipe", stderr: "pipe" } as const),
    ...{ cwd: root, env: { ...process.env, ...env }, timeout: limit * 1000, killSignal: "SIGKILL" as const },
  });
  let firstByteSeconds = Number.POSITIVE_INFINITY;
  const text = async () => {
    let all = "";
    const decoder = new TextDecoder();
    for await (const bytes of child.stdout) {
      if (all === "") firstByteSeconds = (performance.now() - start) / 1000;
      all += decoder.decode(bytes, { stream: true });
    }
    return all;
  };
  const [out, err, code] = await Promise.all([text(), new Response(child.stderr).text(), child.exited]);
  return { code, out, err, seconds: (performance.now() - start) / 1000, firstByteSeconds };
}

/** The same for a program that must succeed and prints JSON. */
export async function json<T>(command: readonly string[], limit: number): Promise<T> {
  const { code, out, err } = await ran(command, { limit });
  if (code !== 0) throw new Error(`${command.slice(2).join(" ")} exited with ${code}: ${lastLines(err)}`);
  return JSON.parse(out) as T;
}

export function lastLines(text: string, lines = 3): string {
  return text.trim().split("\n").slice(-lines).join(" | ");
}

export type Served = { readonly url: string; readonly pid: number; stop(): Promise<number> };

/** Starts `psionic serve` on a free port and waits for its ready line; throws with its complaint when it ends before. */
export async function served(words: readonly string[], limit = 60): Promise<Served> {
  const child = Bun.spawn(psionic("serve", "--port", "0", ...words), {
    ...({ cwd: root, stdin: "ignore", stdout: "pipe", stderr: "pipe" } as const),
  });
  const err = new Response(child.stderr).text();
  const timer = setTimeout(() => child.kill("SIGKILL"), limit * 1000);
  let line = "";
  const decoder = new TextDecoder();
  const reader = child.stdout.getReader();
  while (!line.includes("\n")) {
    const { done, value } = await reader.read();
    if (done) break;
    line += decoder.decode(value, { stream: true });
  }
  clearTimeout(timer);
  const url = /http:\/\/\S+/.exec(line)?.[0];
  if (!url) throw new Error(`exit ${await child.exited}: ${lastLines(await err, 2)}`);
  return {
    url,
    pid: child.pid,
    async stop() {
      child.kill("SIGTERM");
      const kill = setTimeout(() => child.kill("SIGKILL"), 15_000);
      const code = await child.exited;
      clearTimeout(kill);
      return code;
    },
  };
}

/** Bytes taken on the card by everybody; on the CPU the resident set of the process. */
export async function usedMemory(backend: CheckBackend, pid: number): Promise<number> {
  if (backend === "cpu") {
    const kib = /^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
    return Number(kib) * 1024;
  }
  const { out } = await ran([
    "nvidia-smi",
    "--query-gpu=memory.used",
    "--format=csv,noheader,nounits",
    "-i",
    "0",
  ]);
  return Number(out.trim()) * 2 ** 20;
}

export function gib(bytes: number): string {
  return `${(bytes / 2 ** 30).toFixed(2)} GiB`;
}

export function median(numbers: readonly number[]): number {
  return [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? Number.NaN;
}

export { goldenFolder } from "../../src/models/testing/golden_folder.ts";
export const defaultModel = join(root, "fixtures", "docs-oss-13m-mxfp4.gguf");

/** The library of the device under test, for programs that are told by name. */
export function builtCudaLibrary(): string | undefined {
  const built = process.env.PSIONIC_CUDA_LIBRARY ?? join(root, ".cache", "native", "libpsionic_cuda.so");
  return existsSync(built) ? built : undefined;
}
