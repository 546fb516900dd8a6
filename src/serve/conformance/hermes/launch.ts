import { existsSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { UsageError } from "../../../terminal/command.ts";
import { at, textAt } from "../json.ts";
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

/** Longest wait for one answer of a model, milliseconds. */
export const answerMs = 600_000;

/** Connects to a row's server, or starts it on a free port of this machine; ready is what has answered a first request. */
export async function startRow(
  row: RowSpec,
  programs: Programs,
  apiKey: string | undefined,
): Promise<Started> {
  const begun = performance.now();
  const since = () => Math.round(performance.now() - begun) / 1000;
  let close = async () => {};
  try {
    let root = row.baseUrl;
    let { model } = row;
    if (root === undefined) {
      const port = await freePort();
      const launch = commandOf(row, port, programs);
      if ("status" in launch) return launch;
      const child = startProgram(launch);
      close = child.close;
      root = `http://127.0.0.1:${port}`;
      await child.ready(root);
      // a file's server has a name of its own for it
      if (row.backend !== "ollama") model = undefined;
    }
    const key = row.baseUrl === undefined ? undefined : apiKey;
    const target = makeTarget(root, model ?? (await firstModel(root, key)), key, answerMs);
    const failure = await firstAnswer(target);
    if (failure === undefined) return { status: "ready", target, startupS: since(), close };
    await close();
    return failure;
  } catch (error) {
    await close();
    return { status: "startup_failure", reason: error instanceof Error ? error.message : String(error) };
  }
}

type Failed = Extract<Started, { readonly reason: string }>;

/** One token, so that a model which is loaded on demand is there before anything is timed. */
async function firstAnswer(target: Target): Promise<Failed | undefined> {
  const messages = [{ role: "user", content: "Hello" }];
  const asked = { model: target.model, messages, max_tokens: 1, temperature: 0, seed: 0 };
  const { status, json, text } = await target.post("/v1/chat/completions", asked);
  if (status === 200) return undefined;
  const reason = textAt(json, "error", "message") || `status ${status} ${text.slice(0, 100)}`;
  const missing = status === 404 || at(json, "error", "code") === "model_not_found";
  return { status: missing ? "missing_model" : "startup_failure", reason };
}

function startProgram({ command, env }: Launch) {
  const child = Bun.spawn([...command], {
    ...({ stdin: "ignore", stdout: "ignore", stderr: "pipe" } as const),
    env: { ...process.env, ...env },
  });
  const said = new Response(child.stderr).text();
  return {
    close: async () => {
      child.kill();
      await child.exited;
    },
    /** Waits until it lists its models; throws with its last words where it ends before that. */
    ready: async (root: string) => {
      if (await untilReady(root, child)) return;
      child.kill();
      const last = (await said).trim().split("\n").at(-1);
      throw new Error(last || "the server did not get ready");
    },
  };
}

type Launch = { readonly command: readonly string[]; readonly env: Readonly<Record<string, string>> };

function commandOf({ backend, model }: RowSpec, port: number, programs: Programs): Launch | Failed {
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
