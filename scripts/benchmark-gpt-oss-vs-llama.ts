/**
 * psionic against llama.cpp through their servers, one after the other on one port: three requests each (cold, another
 * sentence, the first again), greedy, with fixed messages; whether the visible answers are equal, tokens per second over
 * the whole request, and, in a second run of each server with streaming, the seconds to the first token.
 * Usage: bash scripts/benchmark-gpt-oss-vs-llama.sh --model FILE --llama-bin PROGRAM [--psionic-backend cuda] [--ngl 999]
 *        [--server both|psionic|llama] [--psionic-bin PROGRAM] [--psionic-metal-mode native|proxy] [--host 127.0.0.1]
 *        [--port 8099] [--ctx 4096] [--max-tokens 64] [--startup-timeout-seconds 60] [--request-timeout-seconds 60]
 *        [--json-out DIR]           --llama-bin may name scripts/llama-peer.ts.
 * Output: a table, then prompt_cache_hit_visible_output_match=true|false; with --json-out a summary, the response and the
 *         server's health per case. Exits 1 on wrong flags, a missing file or a server that does not start.
 */
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { table } from "../src/terminal/table.ts";
import {
  type Case,
  cases,
  type HarnessOptions,
  harnessOptions,
  requestBody,
  visibleOutput,
} from "./llama-harness.ts";

type ServerName = "psionic" | "llama";
type Json = Readonly<Record<string, unknown>>;
type Summary = {
  readonly server: ServerName;
  readonly case: string;
  readonly model_path: string;
  readonly endpoint: string;
  readonly psionic_backend: string;
  readonly elapsed_seconds: number;
  readonly completion_tokens: number;
  readonly tokens_per_second: number;
  readonly visible_output: string;
  readonly execution_mode: unknown;
  readonly execution_engine: unknown;
  readonly server_health: Json;
  readonly response: Json;
  readonly first_token_seconds?: number;
};

const root = join(import.meta.dir, "..");

function fail(message: string): never {
  console.error(`[benchmark-gpt-oss-vs-llama] ${message}`);
  process.exit(1);
}

function options(): HarnessOptions {
  try {
    return harnessOptions(process.argv.slice(2), process.platform);
  } catch (error) {
    fail(error instanceof Error ? error.message : String(error));
  }
}

/** A program as words of a command line: TypeScript runs in this Bun. */
function program(path: string): string[] {
  if (!existsSync(path)) fail(`expected a program, got no file at ${path}`);
  return path.endsWith(".ts") ? [process.execPath, path] : [path];
}

function commandOf(server: ServerName, o: HarnessOptions): string[] {
  const common = [
    "-m",
    o.model,
    "--host",
    o.host,
    "--port",
    String(o.port),
    "-c",
    String(o.ctx),
    "-ngl",
    String(o.ngl),
  ];
  const fixed = ["--reasoning-budget", "0", "--no-webui"];
  if (server === "llama") {
    const mac = process.platform === "darwin" ? ["-b", "64", "-ub", "64", "--cpu-moe"] : [];
    return [...program(o.llamaBin!), ...common, ...fixed, ...mac];
  }
  const built = join(root, "dist", "psionic");
  const binary = o.psionicBin ?? (existsSync(built) ? built : join(root, "src", "main.ts"));
  const metal = o.psionicBackend === "metal" ? ["--metal-mode", o.psionicMetalMode] : [];
  return [...program(binary), "serve", ...common, "--backend", o.psionicBackend, ...metal, ...fixed];
}

type Running = { readonly health: Json; stop(): Promise<void> };

/** Starts a server and waits until it says that it is healthy. */
async function start(server: ServerName, o: HarnessOptions): Promise<Running> {
  const url = `http://${o.host}:${o.port}/health`;
  const answers = await fetch(url).then(
    () => true,
    () => false,
  );
  if (answers) fail(`expected a free port, got a server at ${url}`);
  const command = commandOf(server, o);
  const child = Bun.spawn(command, { stdin: "ignore", stdout: "ignore", stderr: "pipe" });
  const err = new Response(child.stderr).text();
  const deadline = performance.now() + o.startupSeconds * 1000;
  for (;;) {
    const health = await fetch(url).then(
      async (r) => (r.ok ? ((await r.json()) as Json) : undefined),
      () => undefined,
    );
    if (health) {
      // llama-server's says no more than that it is well
      const own =
        server === "llama"
          ? { ...health, backend: "llama.cpp", execution_mode: "proxy", execution_engine: "llama.cpp" }
          : health;
      return {
        health: own,
        async stop() {
          child.kill("SIGTERM");
          const timer = setTimeout(() => child.kill("SIGKILL"), 10_000);
          await child.exited;
          clearTimeout(timer);
        },
      };
    }
    if (child.exitCode !== null || performance.now() > deadline) {
      child.kill("SIGKILL");
      await child.exited;
      const why = (await err).trim().split("\n").slice(-3).join("\n");
      fail(`expected ${server} within ${o.startupSeconds} s, got none: ${command.join(" ")}\n${why}`);
    }
    await Bun.sleep(50);
  }
}

function ask(o: HarnessOptions, body: object): Promise<Response> {
  return fetch(endpoint(o), {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(o.requestSeconds * 1000),
  });
}

function endpoint({ host, port }: HarnessOptions): string {
  return `http://${host}:${port}/v1/chat/completions`;
}

async function measure(
  server: ServerName,
  o: HarnessOptions,
  { health }: Running,
  asked: Case,
): Promise<Summary> {
  const began = performance.now();
  const answer = await ask(o, requestBody(o, asked));
  const response = (await answer.json()) as Json;
  const seconds = (performance.now() - began) / 1000;
  if (!answer.ok)
    fail(
      `expected an answer to ${asked.name} of ${server}, got ${answer.status}: ${JSON.stringify(response)}`,
    );
  const { choices, usage } = response as {
    choices: readonly { readonly message: { readonly content: string } }[];
    usage: { readonly completion_tokens: number };
  };
  return {
    ...{
      server,
      case: asked.name,
      model_path: o.model,
      endpoint: endpoint(o),
      psionic_backend: o.psionicBackend,
    },
    elapsed_seconds: Number(seconds.toFixed(3)),
    completion_tokens: usage.completion_tokens,
    tokens_per_second: Number((usage.completion_tokens / seconds).toFixed(2)),
    visible_output: visibleOutput(choices[0]?.message.content ?? ""),
    ...{ execution_mode: health.execution_mode, execution_engine: health.execution_engine },
    ...{ server_health: health, response },
  };
}

/** Seconds to the first event that carries text. */
async function firstToken(o: HarnessOptions, asked: Case): Promise<number> {
  const began = performance.now();
  const answer = await ask(o, { ...requestBody(o, asked), stream: true });
  if (!answer.ok || !answer.body)
    throw new Error(`expected a stream for ${asked.name}, got ${answer.status}`);
  let seconds = Number.NaN;
  let text = "";
  const decoder = new TextDecoder();
  for await (const bytes of answer.body) {
    text += decoder.decode(bytes, { stream: true });
    if (Number.isNaN(seconds) && /"content":"[^"]/.test(text)) seconds = (performance.now() - began) / 1000;
  }
  return Number(seconds.toFixed(4));
}

/** `body` with a server that ends whatever happens; a request that fails or takes too long ends the script. */
async function withServer<T>(
  server: ServerName,
  o: HarnessOptions,
  body: (running: Running) => Promise<T>,
): Promise<T> {
  const running = await start(server, o);
  try {
    return await body(running);
  } catch (error) {
    await running.stop();
    fail(`${server}: ${error instanceof Error ? error.message : error}`);
  } finally {
    await running.stop();
  }
}

async function run(server: ServerName, o: HarnessOptions): Promise<Summary[]> {
  console.error(`${server}: ${commandOf(server, o).join(" ")}`);
  const summaries = await withServer(server, o, async (running) => {
    const each: Summary[] = [];
    for (const asked of cases) each.push(await measure(server, o, running, asked));
    return each;
  });
  const seconds = await withServer(server, o, async () => {
    const each: number[] = [];
    for (const asked of cases) each.push(await firstToken(o, asked));
    return each;
  });
  return summaries.map((summary, i) => ({ ...summary, first_token_seconds: seconds[i]! }));
}

function save(folder: string, summaries: readonly Summary[]): void {
  mkdirSync(folder, { recursive: true });
  const write = (name: string, value: unknown) =>
    writeFileSync(join(folder, name), `${JSON.stringify(value, null, 2)}\n`);
  for (const summary of summaries) {
    write(`${summary.server}.${summary.case}.summary.json`, summary);
    write(`${summary.server}.${summary.case}.response.json`, summary.response);
    write(`${summary.server}.health.json`, summary.server_health);
  }
}

const asked = options();
if (!existsSync(asked.model)) fail(`expected a model, got no file at ${asked.model}`);
const names = (["psionic", "llama"] as const).filter((n) => asked.server === "both" || asked.server === n);
// both before the first starts, which may take minutes
for (const name of names) commandOf(name, asked);
const summaries: Summary[] = [];
for (const name of names) summaries.push(...(await run(name, asked)));
if (asked.jsonOut) save(asked.jsonOut, summaries);
const rows = summaries.map((s) => [
  ...[
    s.server,
    s.case,
    s.elapsed_seconds.toFixed(3),
    String(s.completion_tokens),
    s.tokens_per_second.toFixed(2),
  ],
  ...[(s.first_token_seconds ?? Number.NaN).toFixed(4), JSON.stringify(s.visible_output)],
]);
const head = ["server", "case", "seconds", "tokens", "tokens/s", "first token, s", "visible output"];
console.log(table([head, ...rows], [2, 3, 4, 5]));
if (names.length === 2) {
  const [ours, theirs] = names.map(
    (n) => summaries.find((s) => s.server === n && s.case === "prompt_cache_hit")!,
  );
  console.log(`prompt_cache_hit_visible_output_match=${ours!.visible_output === theirs!.visible_output}`);
}
