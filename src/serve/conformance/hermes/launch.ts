import { existsSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { UsageError } from "../../../terminal/command.ts";
import { at, listAt } from "../json.ts";
import { firstModel, makeTarget, rootOf, type Target } from "../target.ts";

/** A row of a comparison, as `--rows` names it. */
export type RowSpec = {
  /** `psionic`, or `psionic/2b` where a backend has several rows. */
  readonly label: string;
  readonly backend: string;
  /** A server that runs, or undefined: it is started. */
  readonly baseUrl: string | undefined;
  /** The model's name there; where the backend is started a file's path, for Ollama its name. */
  readonly model: string | undefined;
};

const startable = ["psionic", "llama.cpp", "ollama"] as const;

/** `LABEL=URL[#MODEL]` for a running server, `LABEL=start:MODEL` for one to be started. */
export function parseRow(text: string): RowSpec {
  const [, label, rest] = /^([^=]+)=(.+)$/.exec(text) ?? [];
  if (label === undefined || rest === undefined) {
    throw new UsageError(`--rows takes LABEL=URL#MODEL or LABEL=start:MODEL, got ${text}`);
  }
  const backend = label.split("/")[0]!;
  if (!rest.startsWith("start:")) {
    const [url, model] = rest.split("#");
    return { label, backend, baseUrl: rootOf(url!), model: model === "" ? undefined : model };
  }
  if (!startable.some((name) => name === backend)) {
    throw new UsageError(`only ${startable.join(", ")} can be started, got ${backend}`);
  }
  const model = rest.slice("start:".length);
  if (model === "") throw new UsageError(`--rows ${label}=start: needs a model`);
  return { label, backend, baseUrl: undefined, model };
}

export type RowStatus = "ready" | "missing_binary" | "missing_model" | "startup_failure";

/** A backend that is ready, or why it is not. */
export type Started =
  | {
      readonly status: "ready";
      readonly target: Target;
      readonly startupS: number;
      readonly close: () => Promise<void>;
    }
  | { readonly status: Exclude<RowStatus, "ready">; readonly reason: string };

export type Programs = { readonly "llama.cpp": string; readonly ollama: string };

/** Longest time that a backend may take to answer its first request, milliseconds. */
const startMs = 300_000;

/** Connects to a row's server, or starts it on a free port of this machine. */
export async function startRow(
  row: RowSpec,
  programs: Programs,
  apiKey: string | undefined,
): Promise<Started> {
  const begun = performance.now();
  const since = () => Math.round(performance.now() - begun) / 1000;
  if (row.baseUrl !== undefined) {
    try {
      const target = makeTarget(row.baseUrl, row.model ?? (await firstModel(row.baseUrl, apiKey)), apiKey);
      const { status } = await target.get("/v1/models");
      if (status !== 200) return { status: "startup_failure", reason: `/v1/models answers ${status}` };
      return { status: "ready", target, startupS: since(), close: async () => {} };
    } catch (error) {
      return { status: "startup_failure", reason: textOf(error) };
    }
  }
  const port = await freePort();
  const launch = commandOf(row, port, programs);
  if ("status" in launch) return launch;
  const child = Bun.spawn([...launch.command], {
    ...({ stdin: "ignore", stdout: "ignore", stderr: "pipe" } as const),
    env: { ...process.env, ...launch.env },
  });
  const said = new Response(child.stderr).text();
  const close = async () => {
    child.kill();
    await child.exited;
  };
  const root = `http://127.0.0.1:${port}`;
  const ready = await untilReady(root, child);
  if (!ready) {
    await close();
    const last = (await said).trim().split("\n").at(-1) ?? "";
    return { status: "startup_failure", reason: last || "it did not get ready" };
  }
  if (row.backend === "ollama" && !(await ollamaHas(root, row.model!))) {
    await close();
    return { status: "missing_model", reason: `ollama has no ${row.model}` };
  }
  const model = row.backend === "ollama" ? row.model! : await firstModel(root, undefined);
  return { status: "ready", target: makeTarget(root, model, undefined), startupS: since(), close };
}

type Launch = { readonly command: readonly string[]; readonly env: Readonly<Record<string, string>> };

function commandOf(
  { backend, model }: RowSpec,
  port: number,
  programs: Programs,
): Launch | Extract<Started, { readonly reason: string }> {
  const file = model!;
  if (backend !== "ollama" && !existsSync(file))
    return { status: "missing_model", reason: `no file ${file}` };
  if (backend === "psionic") {
    return { command: [...ownProgram(), "serve", "-m", file, "--port", String(port)], env: {} };
  }
  const program = programs[backend as keyof Programs];
  const path = Bun.which(program) ?? (existsSync(program) ? program : undefined);
  if (path === undefined) return { status: "missing_binary", reason: `no program ${program}` };
  if (backend === "ollama") {
    return { command: [path, "serve"], env: { OLLAMA_HOST: `127.0.0.1:${port}` } };
  }
  const options = ["-m", file, "--host", "127.0.0.1", "--port", String(port), "-ngl", "999", "--jinja"];
  return { command: [path, ...options, "--no-webui"], env: {} };
}

/** This program: the executable itself, or Bun with the source. */
function ownProgram(): string[] {
  if (Bun.isStandaloneExecutable) return [process.execPath];
  return [process.execPath, join(import.meta.dir, "..", "..", "..", "main.ts")];
}

async function untilReady(root: string, child: Bun.Subprocess): Promise<boolean> {
  const limit = performance.now() + startMs;
  while (performance.now() < limit) {
    if (child.exitCode !== null || child.signalCode !== null) return false;
    try {
      const { status } = await makeTarget(root, "", undefined).get("/v1/models");
      if (status === 200) return true;
    } catch {
      // nothing listens yet
    }
    await Bun.sleep(100);
  }
  return false;
}

async function ollamaHas(root: string, model: string): Promise<boolean> {
  const { json } = await makeTarget(root, "", undefined).get("/api/tags");
  return listAt(json, "models").some((entry) => at(entry, "name") === model);
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.on("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      server.close(() => resolve(typeof address === "object" && address ? address.port : 0));
    });
  });
}

function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
