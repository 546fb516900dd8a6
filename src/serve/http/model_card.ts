import type { ChatFormat } from "../../models/chat/index.ts";
import { modelId, publicName } from "../models/names.ts";
import type { ModelRow } from "../models/source.ts";
import type { BackendTruth, EngineInfo } from "../protocol.ts";
import { mediaFields } from "./media.ts";
import { toolParserName } from "./parser_names.ts";
import { storeLimits } from "./responses/store.ts";
import { structuredCapabilities } from "./structured.ts";

export const servedEndpoints = [
  "/v1/chat/completions",
  "/v1/completions",
  "/v1/responses",
  "/v1/messages",
  "/v1/embeddings",
] as const;

/** Paths that a loaded model answers at. */
export function endpointsOf({ embedding }: EngineInfo): readonly string[] {
  if (embedding?.pooling === "rank") return ["/v1/rerank"];
  return embedding ? servedEndpoints : servedEndpoints.filter((path) => path !== "/v1/embeddings");
}

/** How vectors of a model are made, in its card. */
function embeddingFields({ embedding }: EngineInfo) {
  if (!embedding) return {};
  const { dimensions, pooling, declared } = embedding;
  return {
    psionic_embedding_dimensions: dimensions,
    psionic_embedding_normalization: pooling === "rank" ? "None" : "UnitLength",
    psionic_embedding_pooling: pooling,
    psionic_embedding_pooling_source: declared ? "model_file" : "default",
  };
}

/** Names and truth of the loaded model as the wire spells them. */
export function modelFacts(info: EngineInfo) {
  return {
    name: publicName(info),
    truth: { ...truthFields(info.backend), ...adapterFields(info) },
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

/** The truth tuple as the wire spells it. */
export function truthFields(truth: BackendTruth) {
  return {
    backend: truth.backend,
    execution_mode: truth.executionMode,
    execution_engine: truth.executionEngine,
    residency_mode: truth.residencyMode,
    hybrid_offload: truth.hybridOffload,
    fallback_policy: truth.fallbackPolicy,
    performance_class: truth.performanceClass,
  };
}

/** What adds to the model, where something does. */
function adapterFields({ adapter }: EngineInfo) {
  if (!adapter) return {};
  const { name, digest, servedDigest } = adapter;
  return { adapter: name, adapter_digest: digest, served_adapter_digest: servedDigest };
}

/** The same in a model's card. */
function cardTruth(truth: BackendTruth) {
  const { backend, ...rest } = truthFields(truth);
  return {
    psionic_served_backend: backend,
    ...Object.fromEntries(Object.entries(rest).map(([key, value]) => [`psionic_${key}`, value])),
  };
}

/** An entry of `/v1/models`: of a model that is not loaded, what its headers say. */
export function cardOf(row: ModelRow) {
  const { name, served, header } = row;
  const state = { psionic_load_status: row.state, psionic_default: row.isDefault };
  if (served) return { ...modelCard(served.engine.info, served.chat), ...state };
  const { lastLoad } = header ?? {};
  const contextLength = lastLoad?.contextLength ?? header?.trainedContext ?? null;
  return {
    ...cardHead(name, header?.title ?? ""),
    ...contextNames(contextLength),
    meta: {
      n_ctx: contextLength,
      n_ctx_train: header?.trainedContext ?? null,
      n_params: header?.parameters ?? null,
      size: header?.weightBytes ?? null,
      quantization: header?.quantization ?? null,
      architecture: header?.architecture ?? null,
    },
    ...(lastLoad ? { capabilities: lastLoad.capabilities } : {}),
    modalities: { input: ["text"], output: ["text"] },
    psionic_model_id: row.id,
    psionic_supported_endpoints: lastLoad?.endpoints ?? servedEndpoints,
    psionic_model_family: header ? familyOf(header.architecture) : null,
    ...(header ? cardTruth(header.backend) : {}),
    ...state,
    ...(row.error === undefined ? {} : { psionic_load_error: row.error }),
  };
}

function cardHead(name: string, title: string) {
  return {
    id: name,
    object: "model",
    created: Math.floor(startedAt / 1000),
    owned_by: "psionic",
    // these three for Anthropic's clients
    type: "model",
    display_name: title === "" ? name : title,
    created_at: new Date(startedAt).toISOString(),
  };
}

/** The context as different clients look for it, tokens. */
function contextNames(tokens: number | null) {
  return { context_length: tokens, max_model_len: tokens, n_ctx: tokens };
}

function familyOf(architecture: string): string {
  return architecture.replaceAll("-", "_");
}

/** The part of an entry for a model that is loaded. */
export function modelCard(info: EngineInfo, chat: ChatFormat) {
  const { name, executionProfile } = modelFacts(info);
  return {
    ...cardHead(name, info.model.name),
    ...contextNames(info.contextLength),
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
    capabilities: capabilities(chat, info),
    modalities: { input: ["text"], output: ["text"] },
    psionic_model_id: modelId(info),
    ...(info.adapter && {
      psionic_adapter: {
        ...adapterFields(info),
        rank: info.adapter.rank,
        alpha: info.adapter.alpha,
        n_params: info.adapter.parameters,
      },
    }),
    psionic_supported_endpoints: endpointsOf(info),
    psionic_model_family: familyOf(info.model.architecture),
    ...cardTruth(info.backend),
    ...Object.fromEntries(
      Object.entries(mediaFields(chat.media)).map(([field, value]) => [`psionic_${field}`, value]),
    ),
    psionic_response_state: {
      storage: "memory_only",
      retention_scope: "process_lifetime",
      cache_behavior: "prompt_replay_only",
      continuation_modes: ["append_turn"],
      max_responses: storeLimits.responses,
      max_conversations: storeLimits.conversations,
    },
    psionic_structured_outputs: structuredCapabilities.structured_outputs,
    psionic_structured_output_capabilities: structuredCapabilities.structured_output_capabilities,
    ...(chat.capabilities.tools ? { psionic_tool_calling: toolCalling(chat) } : {}),
    ...embeddingFields(info),
    psionic_execution_profile: executionProfile,
    psionic_plan_digest: info.planDigest,
  };
}

const startedAt = Date.now();

function toolCalling({ name, opening, shape }: ChatFormat) {
  return {
    support_level: "fallback",
    supported_modes: ["none", "auto", ...(opening ? ["required", "named"] : [])],
    parser: toolParserName(name),
    // masks hold to what of a schema is served; the client checks the rest
    argument_validation: shape ? "json_schema_subset" : "none",
  };
}

export function capabilities(chat: ChatFormat, { embedding }: EngineInfo): string[] {
  if (embedding?.pooling === "rank") return ["rerank"];
  const { reasoning, tools } = chat.capabilities;
  const more = { reasoning, tools, embedding: embedding !== undefined };
  return ["completion", "chat", ...Object.entries(more).flatMap(([name, has]) => (has ? [name] : []))];
}
