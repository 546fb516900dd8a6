import type { ChatFormat } from "../../models/chat/index.ts";
import type { Tokenizer } from "../../models/tokenizer/tokenizer.ts";
import { availableMemory } from "../engine/memory.ts";
import type { Engine } from "../protocol.ts";
import type { ApiKeys } from "./security.ts";

/** A loaded model with what turns text into its tokens and back. */
export type ServedModel = {
  readonly engine: Engine;
  readonly tokenizer: Tokenizer;
  readonly chat: ChatFormat;
  /** The template text of the model file, for `/props`. */
  readonly chatTemplate?: string;
  /** How a reranker's file wants a query and a document written, with `{query}` and `{document}` in it. */
  readonly rerankTemplate?: string;
  /** Called once its engine is closed. */
  readonly release?: () => void;
};

/** Bounds of what one request may ask for; beyond them it gets a 4xx. */
export type RequestLimits = {
  readonly bodyBytes: number;
  /** Bodies of all requests under way together; beyond it 503, beyond a client's share 429. */
  readonly bodiesBytes: number;
  /** How long a body may take to arrive, milliseconds. */
  readonly bodyMs: number;
  readonly messages: number;
  readonly partsPerMessage: number;
  readonly choices: number;
  /** Prompts in one call of /v1/completions. */
  readonly prompts: number;
  /** Inputs in one call of /v1/embeddings, documents in one of /v1/rerank. */
  readonly inputs: number;
  readonly stopStrings: number;
  /** UTF-16 units of one stop string. */
  readonly stopLength: number;
  readonly logitBiases: number;
  readonly topLogprobs: number;
};

export const defaultLimits: Omit<RequestLimits, "bodiesBytes"> = {
  bodyBytes: 16 * 2 ** 20,
  bodyMs: 300_000,
  messages: 4096,
  partsPerMessage: 1024,
  choices: 16,
  prompts: 64,
  inputs: 2048,
  stopStrings: 16,
  stopLength: 256,
  logitBiases: 4096,
  topLogprobs: 20,
};

export type ServerOptions = {
  /** Address to listen on; beyond loopback it needs `apiKeys` or `allowUnauthenticated`. Default 127.0.0.1. */
  readonly host?: string;
  /** 0 = any free port. Default 8080. */
  readonly port?: number;
  readonly apiKeys?: ApiKeys;
  readonly allowUnauthenticated?: boolean;
  /** Names beyond loopback and the bound address that a Host header may carry. */
  readonly allowedHosts?: readonly string[];
  /** Origins whose pages may call; `*` = all. Default: only pages of this server. */
  readonly corsOrigins?: readonly string[];
  /** Used when a request names no reasoning effort. Default low. */
  readonly reasoningEffort?: "low" | "medium" | "high";
  readonly limits?: Partial<RequestLimits>;
  /** Longest silence of a stream before a comment keeps it open, milliseconds. Default 5000. */
  readonly pingMs?: number;
  /** Adds `psionic_metrics` to answers. Default: as the environment says. */
  readonly debugFields?: boolean;
  /** Receives one line per finished request, without line break. */
  readonly log?: (line: string) => void;
  readonly logFormat?: "text" | "json";
  /** Receives errors that clients only see as a 500. */
  readonly onError?: (error: unknown, requestId: string) => void;
  /** A request is rehearsed so often while the next one is waited for, milliseconds; 0 = never. Default 0. */
  readonly rehearsalMs?: number;
  /** Serves the page at `/`. Default true. */
  readonly page?: boolean;
  /** What `/props` and `/health` call this build. */
  readonly version?: string;
};

/** Options with every default filled in. */
export type ServerSettings = Required<Omit<ServerOptions, "apiKeys" | "limits">> &
  Pick<ServerOptions, "apiKeys"> & { readonly limits: RequestLimits };

export function serverSettings(options: ServerOptions): ServerSettings {
  return {
    host: options.host ?? "127.0.0.1",
    port: options.port ?? 8080,
    apiKeys: options.apiKeys,
    allowUnauthenticated: options.allowUnauthenticated ?? false,
    allowedHosts: options.allowedHosts ?? [],
    corsOrigins: options.corsOrigins ?? [],
    reasoningEffort: options.reasoningEffort ?? "low",
    limits: { ...defaultLimits, bodiesBytes: bodiesBytes(availableMemory()), ...options.limits },
    pingMs: options.pingMs ?? 5000,
    debugFields: options.debugFields ?? debugWanted(),
    log: options.log ?? (() => {}),
    logFormat: options.logFormat ?? "text",
    onError: options.onError ?? (() => {}),
    rehearsalMs: options.rehearsalMs ?? 0,
    page: options.page ?? true,
    version: options.version ?? "0",
  };
}

/** A 32nd of the memory, bytes, within bounds: what is made of bodies takes some times their bytes. */
export function bodiesBytes(memory: number): number {
  return Math.min(4 * 2 ** 30, Math.max(256 * 2 ** 20, Math.floor(memory / 32)));
}

function debugWanted(): boolean {
  return ["1", "true", "TRUE", "yes", "YES"].includes(Bun.env.PSIONIC_OPENAI_INCLUDE_DEBUG_FIELDS ?? "");
}
