import { basename } from "node:path";
import type { ChatFormat } from "../../models/chat/index.ts";
import type { EngineInfo } from "../protocol.ts";
import { HttpError } from "./errors.ts";
import { storeLimits } from "./responses/store.ts";

export const servedEndpoints = [
  "/v1/chat/completions",
  "/v1/completions",
  "/v1/responses",
  "/v1/messages",
] as const;

/** Names and truth of the loaded model as the wire spells them. */
export function modelFacts(info: EngineInfo) {
  const truth = info.backend;
  return {
    /** The public name: the file's. */
    name: basename(info.model.path),
    truth: {
      backend: truth.backend,
      execution_mode: truth.executionMode,
      execution_engine: truth.executionEngine,
      residency_mode: truth.residencyMode,
      hybrid_offload: truth.hybridOffload,
      fallback_policy: truth.fallbackPolicy,
      performance_class: truth.performanceClass,
    },
    executionProfile: {
      batch_posture: "continuous_batch",
      queue_policy: {
        discipline: "fifo",
        max_active_requests: info.slots,
        max_queued_requests: info.maxQueue,
        per_model_serialization: false,
      },
      throughput_class: "balanced",
    },
  };
}

/** `name@sha256:digest`, which stays the same when the file is moved; the name alone until the digest is known. */
export function modelId(info: EngineInfo): string {
  const source = info.model.name === "" ? stem(info) : info.model.name;
  const name = source
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^-|-$/g, "");
  const { digest } = info.model;
  if (digest === null) return name;
  return `${name}@${digest.includes(":") ? digest : `sha256:${digest}`}`;
}

function stem(info: EngineInfo): string {
  return basename(info.model.path).replace(/\.gguf$/i, "");
}

/** Whether a request's `model` means the loaded one: its file name, the same without ending, or its id with or without the digest. */
export function namesModel(info: EngineInfo, name: string): boolean {
  const id = modelId(info);
  const names = [basename(info.model.path), stem(info), id, id.replace(/@sha256:[0-9a-f]+$/, "")];
  return names.includes(name);
}

/** The spelling that answers echo: the request's, else the public name. Throws 400 for another model. */
export function resolveModel(info: EngineInfo, asked: string | null | undefined): string {
  if (asked === null || asked === undefined || asked === "") return modelFacts(info).name;
  if (namesModel(info, asked)) return asked;
  const shown = asked.length > 128 ? `${asked.slice(0, 125)}...` : asked;
  throw new HttpError(400, `Model "${shown}" is not loaded; /v1/models lists what is.`, {
    code: "model_not_found",
    param: "model",
  });
}

/** An entry of `/v1/models`. */
export function modelCard(info: EngineInfo, chat: ChatFormat) {
  const { name, truth, executionProfile } = modelFacts(info);
  const { backend, ...rest } = truth;
  return {
    id: name,
    object: "model",
    created: Math.floor(startedAt / 1000),
    owned_by: "psionic",
    // these three for Anthropic's clients
    type: "model",
    display_name: info.model.name === "" ? name : info.model.name,
    created_at: new Date(startedAt).toISOString(),
    context_length: info.contextLength,
    max_model_len: info.contextLength,
    n_ctx: info.contextLength,
    meta: {
      n_ctx: info.contextLength,
      n_ctx_train: info.model.trainedContext,
      n_vocab: info.model.vocabularySize,
      n_params: info.model.parameters,
      size: info.model.weightBytes,
      quantization: info.model.quantization,
      architecture: info.model.architecture,
      digest: info.model.digest,
    },
    capabilities: capabilities(chat),
    modalities: { input: ["text"], output: ["text"] },
    psionic_model_id: modelId(info),
    psionic_supported_endpoints: servedEndpoints,
    psionic_model_family: info.model.architecture.replaceAll("-", "_"),
    psionic_served_backend: backend,
    ...Object.fromEntries(Object.entries(rest).map(([key, value]) => [`psionic_${key}`, value])),
    psionic_response_state: {
      storage: "memory_only",
      retention_scope: "process_lifetime",
      cache_behavior: "prompt_replay_only",
      continuation_modes: ["append_turn"],
      max_responses: storeLimits.responses,
      max_conversations: storeLimits.conversations,
    },
    ...(chat.capabilities.tools ? { psionic_tool_calling: toolCalling(chat) } : {}),
    psionic_execution_profile: executionProfile,
    psionic_plan_digest: info.planDigest,
  };
}

const startedAt = Date.now();

function toolCalling({ name, opening }: ChatFormat) {
  return {
    support_level: "fallback",
    supported_modes: ["none", "auto", ...(opening ? ["required", "named"] : [])],
    parser: name === "harmony" ? "gpt_oss_harmony" : name,
    // the client checks what a model wrote
    argument_validation: "none",
  };
}

function capabilities(chat: ChatFormat): string[] {
  const { reasoning, tools } = chat.capabilities;
  return ["completion", "chat", ...(reasoning ? ["reasoning"] : []), ...(tools ? ["tools"] : [])];
}
