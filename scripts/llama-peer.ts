/**
 * A stand-in for llama-server where none is installed: llama.cpp through node-llama-cpp behind /health and
 * /v1/chat/completions, one request at a time, greedy. Prompts are written by psionic's own chat formats, so both servers
 * compute on the same tokens. The cache keeps the last conversation, as one slot of llama-server does.
 * Usage: bun scripts/llama-peer.ts -m FILE [--host 127.0.0.1] [--port 8080] [-c 4096] [-ngl 0] [-t THREADS]
 *        llama-server's --reasoning-budget and --no-webui are accepted, and its LLAMA_ARG_THREADS in the environment.
 * Output: one line on stdout when it listens. Answers have usage and llama-server's `timings`. Exits 1 on wrong options.
 */
import { existsSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import type { ChatMessage } from "../src/models/chat/index.ts";
import { openText } from "../src/serve/served_model.ts";
import { installPeer } from "./llama-install.ts";

/** What is used of node-llama-cpp, whose types are not installed with psionic. */
type Sequence = {
  readonly contextTokens: readonly number[];
  eraseContextTokenRanges(ranges: readonly { start: number; end: number }[]): Promise<void>;
  evaluate(tokens: readonly number[], options: object): AsyncIterable<number>;
  evaluateWithoutGeneratingNewTokens(tokens: readonly number[]): Promise<void>;
};
type Context = { getSequence(): Sequence };
type Model = {
  createContext(options: object): Promise<Context>;
  isEogToken(token: number): boolean;
};
type Llama = { readonly gpu: string | false; loadModel(options: object): Promise<Model> };
type LlamaModule = { getLlama(options: object): Promise<Llama> };

type Asked = {
  readonly model?: string;
  readonly messages: readonly ChatMessage[];
  readonly max_tokens?: number;
  readonly temperature?: number;
  readonly stream?: boolean;
};

function fail(message: string): never {
  console.error(`[llama-peer] ${message}`);
  process.exit(1);
}

function options() {
  // llama-server's options of several letters have one dash
  const words = process.argv.slice(2).map((word) => (word === "-ngl" ? "--ngl" : word));
  try {
    return parseArgs({
      args: words,
      options: {
        model: { type: "string", short: "m" },
        host: { type: "string", default: "127.0.0.1" },
        port: { type: "string", default: "8080" },
        "ctx-size": { type: "string", short: "c", default: "4096" },
        ngl: { type: "string", default: "0" },
        threads: { type: "string", short: "t", default: process.env.LLAMA_ARG_THREADS ?? "0" },
        "reasoning-budget": { type: "string", default: "0" },
        "no-webui": { type: "boolean" },
      },
    }).values;
  } catch (error) {
    fail(error instanceof Error ? error.message : String(error));
  }
}

const values = options();
const whole = (name: "port" | "ctx-size" | "ngl" | "threads" | "reasoning-budget"): number =>
  /^\d+$/.test(values[name])
    ? Number(values[name])
    : fail(`--${name}: expected a whole number, got ${values[name]}`);
const [port, contextSize, gpuLayers] = [whole("port"), whole("ctx-size"), whole("ngl")];
const [threads, budget] = [whole("threads"), whole("reasoning-budget")];
const modelPath = values.model ?? fail("expected -m FILE, got none");
if (!existsSync(modelPath)) fail(`expected a model, got no file at ${modelPath}`);

const { getLlama } = (await import(pathToFileURL(await installPeer()).href)) as LlamaModule;
const llama = await getLlama({
  ...{ gpu: gpuLayers > 0 ? "auto" : false, build: "never", skipDownload: true, logLevel: "error" },
  ...(threads > 0 ? { maxThreads: threads } : {}),
});
if (gpuLayers > 0 && llama.gpu === false)
  fail(`expected a llama.cpp with a GPU for -ngl ${gpuLayers}, got one without`);
const model = await llama.loadModel({ modelPath, gpuLayers });
const context = await model.createContext({
  ...{ contextSize, batchSize: 512, flashAttention: true },
  ...(threads > 0 ? { threads: { ideal: threads, min: threads } } : {}),
});
const sequence = context.getSequence();
const { tokenizer, chat } = openText(modelPath);
const stops = new Set([...chat.stopTokens, ...tokenizer.stopTokens]);
const effort = (["low", "medium", "high"] as const)[Math.min(budget, 2)];

type Timings = {
  prompt_n: number;
  cache_n: number;
  prompt_ms: number;
  predicted_n: number;
  predicted_ms: number;
};

/** Greedy tokens until a stop or the limit, `emit` hears each; what the cache already holds is not computed again. */
async function generate(
  prompt: readonly number[],
  most: number,
  emit: (token: number) => void,
): Promise<Timings> {
  const held = sequence.contextTokens;
  let shared = 0;
  while (shared < held.length && shared < prompt.length - 1 && held[shared] === prompt[shared]) shared++;
  const start = performance.now();
  if (shared < held.length) await sequence.eraseContextTokenRanges([{ start: shared, end: held.length }]);
  let first = start;
  let count = 0;
  for await (const token of sequence.evaluate(prompt.slice(shared), {
    temperature: 0,
    yieldEogTokens: true,
  })) {
    if (count === 0) first = performance.now();
    if (stops.has(token) || model.isEogToken(token)) break;
    emit(token);
    if (++count >= most) break;
  }
  const end = performance.now();
  return {
    ...{ prompt_n: prompt.length - shared, cache_n: shared, prompt_ms: first - start },
    // llama-server counts the token that ends an answer too
    ...{ predicted_n: count < most ? count + 1 : count, predicted_ms: end - first },
  };
}

let turn: Promise<unknown> = Promise.resolve();
/** Requests one after the other: there is one sequence. */
function inTurn<T>(work: () => Promise<T>): Promise<T> {
  const mine = turn.then(work);
  turn = mine.catch(() => {});
  return mine;
}

const text = (tokens: readonly number[]) => tokenizer.decode(tokens, { special: true, continuation: true });
const common = (asked: Asked) => ({ id: `chatcmpl-${crypto.randomUUID()}`, model: asked.model ?? "llama" });

async function answer(asked: Asked): Promise<Response> {
  if (asked.temperature !== 0) throw new Error(`expected temperature 0, got ${asked.temperature}`);
  const prompt = chat.prompt(asked.messages, { reasoningEffort: effort });
  const most = asked.max_tokens ?? contextSize - prompt.length;
  if (asked.stream) return streamed(asked, prompt, most);
  const tokens: number[] = [];
  const timings = await inTurn(() => generate(prompt, most, (token) => tokens.push(token)));
  const message = { role: "assistant", content: text(tokens) };
  const finish_reason = tokens.length >= most ? "length" : "stop";
  const usage = { prompt_tokens: prompt.length, completion_tokens: timings.predicted_n };
  return Response.json({
    ...{ ...common(asked), object: "chat.completion", choices: [{ index: 0, message, finish_reason }] },
    ...{ usage, timings },
  });
}

/** Events with as much text as the tokens so far decide. */
function streamed(asked: Asked, prompt: readonly number[], most: number): Response {
  const encoder = new TextEncoder();
  const body = new ReadableStream<Uint8Array>({
    async start(controller) {
      const send = (data: object | string) => {
        const line = typeof data === "string" ? data : JSON.stringify({ ...common(asked), ...data });
        controller.enqueue(encoder.encode(`data: ${line}\n\n`));
      };
      const tokens: number[] = [];
      let sent = "";
      await inTurn(() =>
        generate(prompt, most, (token) => {
          tokens.push(token);
          const all = text(tokens);
          if (all.endsWith("�")) return;
          send({ choices: [{ index: 0, delta: { content: all.slice(sent.length) } }] });
          sent = all;
        }),
      );
      send({ choices: [{ index: 0, delta: {}, finish_reason: tokens.length >= most ? "length" : "stop" }] });
      send("[DONE]");
      controller.close();
    },
  });
  return new Response(body, { headers: { "content-type": "text/event-stream" } });
}

const server = Bun.serve({
  ...{ hostname: values.host, port, idleTimeout: 255 },
  async fetch(request) {
    const { pathname } = new URL(request.url);
    if (pathname === "/health") return Response.json({ status: "ok" });
    if (pathname !== "/v1/chat/completions" || request.method !== "POST") {
      return Response.json({ error: { message: "no such route", code: 404 } }, { status: 404 });
    }
    try {
      return await answer((await request.json()) as Asked);
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      return Response.json({ error: { message, code: 400 } }, { status: 400 });
    }
  },
});
console.log(`llama-peer ${server.url.href} model=${modelPath}`);
process.on("SIGTERM", () => process.exit(0));
