import { unexpected } from "../core/error.ts";
import type { Tokenizer } from "../models/tokenizer/tokenizer.ts";
import {
  type Engine,
  type EngineInfo,
  type ExpectedPrompt,
  type GenerateEvent,
  type GenerateRequest,
  noDiskStats,
} from "./protocol.ts";

/** What a scripted engine says, and how. Control tokens of the tokenizer may stand in the texts. */
export type Script = {
  /** What each choice says, in turn; the last one again when there are more. */
  readonly answers: readonly string[];
  /** What the requests after the first one are answered with. */
  readonly later?: readonly string[];
  /** Pause before each token, milliseconds. */
  readonly tokenMs?: number;
  /** Pause before the first event, milliseconds. */
  readonly prefillMs?: number;
  readonly contextLength?: number;
  /** Thrown instead of the token with this number. */
  readonly failAt?: { readonly token: number; readonly error: Error };
  readonly refuse?: Error;
  /** The engine has ended with this before anything was asked. */
  readonly failure?: Error;
};

/**
 * An engine that says what a script has, with the contract's errors and cancellation: the server's whole path (prompt,
 * parser, stream) runs on known tokens, so that cases which need a capable model need none.
 */
export class ScriptedEngine implements Engine {
  readonly info: EngineInfo;
  readonly requests: GenerateRequest[] = [];
  /** Prompts that were said to follow. */
  expected = 0;
  failure: Error | undefined;
  cancelled = 0;
  running = 0;
  private readonly script: Script;
  private readonly tokenizer: Tokenizer;

  constructor(script: Script, tokenizer: Tokenizer) {
    this.script = script;
    this.failure = script.failure;
    this.tokenizer = tokenizer;
    this.info = scriptedInfo(script.contextLength ?? 512, tokenizer.vocabularySize);
  }

  expect(coming?: ExpectedPrompt): void {
    if (coming) this.expected += 1;
  }

  async *generate(
    request: GenerateRequest,
    signal?: AbortSignal,
    choiceSignals: readonly AbortSignal[] = [],
  ): AsyncGenerator<GenerateEvent> {
    const { contextLength } = this.info;
    this.requests.push(request);
    if (this.script.refuse) throw this.script.refuse;
    if (request.prompt.length + (request.maxTokens ?? 1) > contextLength) {
      throw unexpected(
        "context_overflow",
        "context",
        `at most ${contextLength} tokens`,
        request.prompt.length,
        {
          details: { promptTokens: request.prompt.length, contextLength, maxTokens: request.maxTokens },
        },
      );
    }
    this.running += 1;
    let ended = false;
    try {
      yield* this.events(request, choiceSignals, signal);
      ended = true;
    } finally {
      this.running -= 1;
      if (!ended) this.cancelled += 1;
    }
  }

  private async *events(
    request: GenerateRequest,
    choiceSignals: readonly AbortSignal[],
    signal?: AbortSignal,
  ): AsyncGenerator<GenerateEvent> {
    const { tokenMs = 0, prefillMs = 0, failAt } = this.script;
    const { later = [] } = this.script;
    const said = later[Math.min(this.requests.length - 2, later.length - 1)];
    const answers = said === undefined ? this.script.answers : [said];
    const total = request.prompt.length;
    await pause(prefillMs, signal);
    yield { type: "prefill", processed: total, total, cached: 4 };
    if (request.embedding) {
      const vector = scriptedVector([...request.prompt], this.info.embedding!.dimensions);
      yield { type: "embedding", base64: Buffer.from(vector.buffer).toString("base64") };
    }
    if (request.promptLogprobs) {
      const tokens = [...request.prompt].slice(1).map((token) => ({ token, logprob: -2, top: [] }));
      yield { type: "promptLogprobs", tokens };
    }
    const limit = Math.min(request.maxTokens ?? Infinity, this.info.contextLength - total);
    const tokens = Array.from({ length: request.choices }, (_, i) =>
      this.tokenizer.encode(answers[Math.min(i, answers.length - 1)]!, { special: true }),
    );
    let count = 0;
    const ended = new Set<number>();
    for (let at = 0; at <= limit; at++) {
      for (let choice = 0; choice < request.choices; choice++) {
        const token = tokens[choice]![at];
        const length = tokens[choice]!.length;
        if (at > length || ended.has(choice)) continue;
        if (choiceSignals[choice]?.aborted) {
          ended.add(choice);
          yield { type: "done", choice, reason: "cancelled" };
          continue;
        }
        if (failAt && count === failAt.token) throw failAt.error;
        if (at === limit && at <= length) {
          yield { type: "done", choice, reason: "length", contextFull: request.maxTokens === undefined };
          continue;
        }
        if (token === undefined || request.stopTokens.includes(token)) {
          ended.add(choice);
          yield {
            type: "done",
            choice,
            reason: "stop",
            stopToken: token ?? this.tokenizer.eos ?? request.stopTokens[0]!,
          };
          continue;
        }
        if (tokenMs > 0) await pause(tokenMs, signal);
        count += 1;
        const logprobs = { logprob: -0.5, top: alternatives(token, request.topLogprobs ?? 0) };
        yield { type: "token", choice, token, ...(request.topLogprobs === undefined ? {} : logprobs) };
      }
    }
    yield {
      type: "end",
      promptTokens: total,
      cachedTokens: 4,
      completionTokens: count,
      queueMs: 0,
      prefillMs,
      decodeMs: 1,
      prefixCache: request.prefixCache === "bypass" ? "bypassed" : "hit",
    };
  }

  stats() {
    return {
      active: this.running,
      queued: 0,
      pagesUsed: 0,
      pagesTotal: 8,
      prefixHits: 0,
      prefixMisses: 0,
      cachedPromptTokens: 0,
      promptTokens: 0,
      completionTokens: 0,
      cancelled: this.cancelled,
      steps: 0,
      arenaPeakBytes: 0,
      deviceMemoryBytes: 0,
      ...noDiskStats,
    };
  }

  async close(): Promise<void> {}
}

/** A vector of length 1 that differs with the tokens. */
function scriptedVector(prompt: readonly number[], dimensions: number): Float32Array {
  const raw = Array.from({ length: dimensions }, (_, i) =>
    prompt.reduce((sum, token, at) => sum + Math.sin(token * (i + 1) + at), 0),
  );
  const norm = Math.hypot(...raw);
  return Float32Array.from(raw, (x) => x / norm);
}

function alternatives(token: number, count: number) {
  return Array.from({ length: count }, (_, i) => ({ token: (token + i) % 256, logprob: -0.5 - i }));
}

function pause(ms: number, signal?: AbortSignal): Promise<void> {
  if (ms === 0 && !signal?.aborted) return Promise.resolve();
  return new Promise((resolve, reject) => {
    const gone = () => {
      clearTimeout(timer);
      reject(unexpected("cancelled", "engine", "a running request", "an aborted one"));
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", gone);
      resolve();
    }, ms);
    if (signal?.aborted) gone();
    else signal?.addEventListener("abort", gone, { once: true });
  });
}

function scriptedInfo(contextLength: number, vocabularySize: number): EngineInfo {
  return {
    model: {
      path: "/models/Test-Model.gguf",
      architecture: "gpt-oss",
      name: "Test Model",
      digest: "ab".repeat(32),
      vocabularySize,
      trainedContext: 1024,
      parameters: 1000,
      weightBytes: 2000,
      quantization: "MXFP4",
    },
    backend: {
      backend: "cpu",
      executionMode: "native",
      executionEngine: "psionic",
      residencyMode: "cpu_only",
      hybridOffload: "unsupported",
      fallbackPolicy: "refuse",
      performanceClass: "portable_cpu_degraded",
    },
    embedding: { dimensions: 8, pooling: "mean", declared: false },
    contextLength,
    slots: 4,
    maxQueue: 8,
    memory: { weightBytes: 2000, cacheBytes: 10, workspaceBytes: 10, totalBytes: 2020, processBytes: 1000 },
    planDigest: "cd".repeat(32),
    loadMs: 1,
  };
}
