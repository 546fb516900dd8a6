/** What crosses between the HTTP side (main thread) and the engine (worker): plain data only. */
import type { EngineBackend } from "../ir/op.ts";
import type { Pooling } from "../models/pooling.ts";
import type { ConstraintSource } from "./grammar/index.ts";

/** Sampling of one request. Absent fields take no part; a request that sets none of them decodes greedily. */
export type SamplingParams = {
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly typicalP?: number;
  readonly repeatPenalty?: number;
  readonly repeatLastN?: number;
  readonly presencePenalty?: number;
  readonly frequencyPenalty?: number;
  readonly dryMultiplier?: number;
  readonly dryBase?: number;
  readonly dryAllowedLength?: number;
  readonly dryPenaltyLastN?: number;
  /** Token sequences that end a repetition match. */
  readonly drySequenceBreakers?: readonly (readonly number[])[];
  readonly xtcProbability?: number;
  readonly xtcThreshold?: number;
  /** [token, bias] pairs added to the logits before anything else; -Infinity bans (sent as -1e9). */
  readonly logitBias?: readonly (readonly [number, number])[];
  readonly seed?: number;
};

/** Ids of tokens; long lists from outside come as typed arrays. */
export type TokenIds = readonly number[] | Int32Array;

/** The prompt of a request that will follow, and where its prefix is to be looked for. */
export type ExpectedPrompt = { readonly prompt: TokenIds; readonly tenant?: string };

export type GenerateRequest = {
  readonly prompt: TokenIds;
  /** Absent: until the context is full. */
  readonly maxTokens?: number;
  readonly sampling: SamplingParams;
  /** End-of-generation ids; the stopping token itself is delivered in `done.stopToken`, not as a token event. */
  readonly stopTokens: readonly number[];
  /** Number of choices from the same prompt. */
  readonly choices: number;
  /** Number of alternatives to report per token; 0 = the chosen token's own log-probability only; absent = none. */
  readonly topLogprobs?: number;
  /** Log-probabilities of prompt tokens too (`echo` with `logprobs`). */
  readonly promptLogprobs?: boolean;
  /** Answered with tokens that nothing computes, and counted nowhere: for its way through the engine alone. */
  readonly rehearsal?: true;
  /** Requests of one client share a place in the fair queue. */
  readonly client?: string;
  /** `bypass`: neither read nor written; `invalidate`: overlapping entries dropped, then recorded afresh. */
  readonly prefixCache?: "auto" | "bypass" | "invalidate";
  /** Only requests of equal tenant share cached prefixes. */
  readonly tenant?: string;
  /**
   * One vector of the prompt instead of text: nothing is generated (`maxTokens` 0, one choice), and the prefix cache is
   * neither read nor written.
   */
  readonly embedding?: boolean;
  /** Tokens are chosen among those that a grammar allows. */
  readonly constraint?: RequestConstraint;
};

export type RequestConstraint = ConstraintSource & {
  /** As `packProgram` writes it; travels once. */
  readonly program: Int32Array;
  /** The vocabulary as `packTokens` writes it, for an engine that has not got it yet; stays on this side. */
  readonly vocabulary: () => Int32Array;
};

export type TokenLogprob = { readonly token: number; readonly logprob: number };

export type FinishReason = "stop" | "length" | "cancelled" | "error";

export type GenerateEvent =
  /** Prompt tokens processed so far (`cached` of them taken from the prefix cache). */
  | { readonly type: "prefill"; readonly processed: number; readonly total: number; readonly cached: number }
  | {
      readonly type: "promptLogprobs";
      readonly tokens: readonly (TokenLogprob & { top: readonly TokenLogprob[] })[];
    }
  /** The vector that was asked for: float32, little-endian, in base64. */
  | { readonly type: "embedding"; readonly base64: string }
  | {
      readonly type: "token";
      readonly choice: number;
      readonly token: number;
      readonly logprob?: number;
      readonly top?: readonly TokenLogprob[];
    }
  | {
      readonly type: "done";
      readonly choice: number;
      readonly reason: FinishReason;
      readonly stopToken?: number;
      /** The context ended generation rather than `maxTokens`. */
      readonly contextFull?: boolean;
    }
  /** Last event of a request. Durations in milliseconds. */
  | {
      readonly type: "end";
      readonly promptTokens: number;
      readonly cachedTokens: number;
      readonly completionTokens: number;
      readonly queueMs: number;
      readonly prefillMs: number;
      readonly decodeMs: number;
      readonly prefixCache: "none" | "hit" | "miss" | "bypassed" | "rebuilt";
    };

/** Facts of a loaded model and the engine around it. */
export type EngineInfo = {
  readonly model: {
    readonly path: string;
    readonly architecture: string;
    readonly name: string;
    /**
     * `sha256:<hex>` of the content. Null while a large file is hashed for the first time, which happens beside serving;
     * `info` then becomes a new object.
     */
    readonly digest: string | null;
    readonly vocabularySize: number;
    /** Length the model was trained for, tokens. */
    readonly trainedContext: number;
    readonly parameters: number;
    readonly weightBytes: number;
    readonly quantization: string;
  };
  /** How vectors are made; absent: the engine makes none. */
  readonly embedding?: EmbeddingFacts;
  readonly backend: BackendTruth;
  /** Facts of a device with memory of its own: name, driver, memory. */
  readonly device?: Readonly<Record<string, string | number>>;
  /** Effective context per request, tokens. */
  readonly contextLength: number;
  readonly slots: number;
  readonly maxQueue: number;
  readonly memory: MemoryPlan;
  readonly planDigest: string;
  readonly loadMs: number;
  /** What was chosen for the user, in sentences for the log: a context cut to memory, slots that share pages. */
  readonly notes?: readonly string[];
  /** Present where an adapter adds to the model. */
  readonly adapter?: AdapterFacts;
};

export type AdapterFacts = {
  readonly name: string;
  readonly path: string;
  readonly rank: number;
  readonly alpha: number;
  readonly parameters: number;
  /** SHA-256 of its weights' file, 64 hex digits. */
  readonly digest: string;
  /** Of the adapter, its rank and alpha included, bound to its base; stands for the model where an answer's origin is told. */
  readonly servedDigest: string;
};

export type EmbeddingFacts = {
  /** Numbers of a vector; of a classifier, its labels. */
  readonly dimensions: number;
  readonly pooling: Pooling;
  /** Whether the model's files say so; otherwise it is what we do where they are silent. */
  readonly declared: boolean;
};

/** The truth tuple: which code executes a request (serving contract, section 2). */
export type BackendTruth = {
  readonly backend: EngineBackend;
  readonly executionMode: "native" | "emulated";
  readonly executionEngine: "psionic";
  readonly residencyMode: string;
  readonly hybridOffload: string;
  readonly fallbackPolicy: "refuse";
  readonly performanceClass: string;
};

/** Bytes by purpose, known before loading. */
export type MemoryPlan = {
  readonly weightBytes: number;
  readonly cacheBytes: number;
  readonly workspaceBytes: number;
  /** Of what is planned for the model: weights, caches and workspace, in the memory of the device that computes. */
  readonly totalBytes: number;
  /** Of the host for the process itself: runtime, code, heap with the vocabulary. */
  readonly processBytes: number;
};

export type EngineStats = {
  readonly active: number;
  readonly queued: number;
  readonly pagesUsed: number;
  readonly pagesTotal: number;
  readonly prefixHits: number;
  readonly prefixMisses: number;
  readonly cachedPromptTokens: number;
  readonly promptTokens: number;
  readonly completionTokens: number;
  readonly cancelled: number;
  readonly steps: number;
  /** Resident bytes of temporaries at the highest point so far. */
  readonly arenaPeakBytes: number;
  /** Bytes taken of a device's own memory, by everybody on it; 0 where the device computes in the host's. */
  readonly deviceMemoryBytes: number;
} & DiskStats;

/** What the prefix cache's files did; all 0 where it has none. */
export type DiskStats = {
  /** Requests for which something was read. */
  readonly diskHits: number;
  readonly diskCachedTokens: number;
  readonly diskReadBytes: number;
  readonly diskWrittenBytes: number;
  /** Bytes of all files of the folder, as last counted. */
  readonly diskStoredBytes: number;
  /** Files that were not what their names say. */
  readonly diskRejected: number;
  /** Files that could not be written. */
  readonly diskFailures: number;
};

export const noDiskStats: DiskStats = {
  ...{ diskHits: 0, diskCachedTokens: 0, diskReadBytes: 0, diskWrittenBytes: 0 },
  ...{ diskStoredBytes: 0, diskRejected: 0, diskFailures: 0 },
};

export type PrefixDisk = { readonly folder: string; readonly limitBytes: number };

export type EngineOptions = {
  readonly modelPath: string;
  /** An adapter that adds to the model, by the name that requests have for it. */
  readonly adapter?: { readonly name: string; readonly path: string };
  readonly backend: EngineBackend;
  /** Number of the GPU; absent: 0. */
  readonly device?: number;
  /** Layers that were asked for on the GPU; fewer than all, -1 aside, are refused. Absent: all. */
  readonly gpuLayers?: number;
  /** Per-request context in tokens; absent: the model's trained context, cut to what memory admits and said so. */
  readonly contextLength?: number;
  readonly slots?: number;
  readonly maxQueue?: number;
  readonly cacheType?: "f32" | "f16" | "bf16" | "fp8" | "q8_0";
  readonly threads?: number;
  readonly isa?: string;
  readonly numerics?: "reference" | "ggml";
  /** A copy of the kernel library for this engine alone, where another one is loaded beside it. */
  readonly libraryPath?: string;
  /** Keeps the prefix cache in files of this folder, up to so many bytes; absent: in memory only. */
  readonly prefixDisk?: PrefixDisk;
  /** Host memory that the plan may count with, where the model computes in it; absent: what is free. */
  readonly memoryBytes?: number;
  /** Other models want memory too: caches of a default size hold one full context. */
  readonly sharesMemory?: boolean;
  /** A default context that does not fit is refused, not cut. */
  readonly wholeContext?: boolean;
};

/** The engine as the rest of the process sees it. */
export interface Engine {
  readonly info: EngineInfo;
  /** Set when the engine cannot go on: every request fails with it, and `/health` is 503. */
  readonly failure?: Error | undefined;
  /**
   * Events of one request, in order. Throws PsionicError `context_overflow`, `queue_full`, `invalid_request` before the
   * first event. Aborting the signal, or leaving the loop, frees the request's slot at once. `choiceSignals[i]` ends
   * choice i alone (its stop string was found while others go on).
   */
  generate(
    request: GenerateRequest,
    signal?: AbortSignal,
    choiceSignals?: readonly AbortSignal[],
  ): AsyncIterable<GenerateEvent>;
  /**
   * A request will follow soon: an engine that sleeps wakes up, and an idle one looks for the prompt in its prefix cache. Absent: it
   * need not know.
   */
  expect?(coming?: ExpectedPrompt): void;
  stats(): EngineStats;
  /** Stops taking requests, waits for running ones (or cancels them when `force`), frees everything. */
  close(force?: boolean): Promise<void>;
}
