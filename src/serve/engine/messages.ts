import type { ConstraintSource } from "../grammar/index.ts";
import type { EngineInfo, EngineOptions, GenerateEvent, GenerateRequest } from "../protocol.ts";
import type { ErrorRecord, LinkMemory } from "./link.ts";

/** What the worker is started with, by postMessage; everything later goes through the link. */
export type WorkerStart = {
  readonly options: EngineOptions;
  readonly link: LinkMemory;
  /** f64 [statFields.length], written by the worker after each step */
  readonly stats: SharedArrayBuffer;
};

/** Main to worker. The prompt travels as the message's numbers. */
export type Command =
  /** `expected`: its prompt came with the last `expect`. */
  | {
      readonly type: "submit";
      readonly id: number;
      readonly request: SubmittedRequest;
      readonly expected?: true;
    }
  /** A prompt that will be submitted soon. */
  | { readonly type: "expect"; readonly tenant?: string }
  /** The vocabulary that grammars are about, as the message's numbers; before the first request with one. */
  | { readonly type: "vocabulary" }
  /** A program that later requests name by its digest, packed as the message's numbers. */
  | { readonly type: "grammar"; readonly digest: string }
  | { readonly type: "cancel"; readonly id: number; readonly choice?: number }
  | { readonly type: "close" };

export type SubmittedRequest = Omit<GenerateRequest, "prompt" | "constraint"> & {
  readonly constraint?: ConstraintSource;
};

export type PromptedRequest = SubmittedRequest & Pick<GenerateRequest, "prompt">;

/** Worker to main. */
export type Report =
  | { readonly type: "progress"; readonly progress: LoadProgress }
  | { readonly type: "ready"; readonly info: EngineInfo }
  /** The content digest of a file that was hashed after loading, or why there is none. */
  | { readonly type: "digest"; readonly digest: string }
  | { readonly type: "noDigest"; readonly error: ErrorRecord }
  /** Events of one step, in order: `[request id, event]`. */
  | { readonly type: "events"; readonly events: readonly (readonly [number, GenerateEvent])[] }
  | { readonly type: "failed"; readonly id: number; readonly error: ErrorRecord }
  /** For the log. */
  | { readonly type: "warning"; readonly message: string }
  /** The engine cannot go on; nothing follows. */
  | { readonly type: "broken"; readonly error: ErrorRecord }
  | { readonly type: "closed" };

/** How far loading has come. */
export type LoadProgress = {
  readonly stage: string;
  readonly done: number;
  readonly total: number;
};

const diskFields = [
  ...(["diskHits", "diskCachedTokens", "diskReadBytes", "diskWrittenBytes"] as const),
  ...(["diskStoredBytes", "diskRejected", "diskFailures"] as const),
] as const;

/** Places of EngineStats in the shared array. */
export const statFields = [
  "active",
  "queued",
  "pagesUsed",
  "pagesTotal",
  "prefixHits",
  "prefixMisses",
  "cachedPromptTokens",
  "promptTokens",
  "completionTokens",
  "cancelled",
  "steps",
  "arenaPeakBytes",
  "deviceMemoryBytes",
  ...diskFields,
] as const;
