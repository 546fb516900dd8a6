import type { EngineInfo } from "../../protocol.ts";
import type { Route } from "../context.ts";
import { drainingError, HttpError, json, loadFailedError, loadingError } from "../errors.ts";
import { mediaFields } from "../media.ts";
import { endpointsOf, modelFacts, servedEndpoints, truthFields } from "../model_card.ts";
import { structuredCapabilities } from "../structured.ts";

/** Liveness for anyone; facts about the default model for callers with a key. 503 until the server can answer. */
export const health: Route = {
  method: "GET",
  path: "/health",
  open: true,
  handle: ({ state, authorized }) => {
    const { status, default: first, rows } = state.models;
    if (status === "loading") return json({ status, ...loadingError().body() }, 503, { "retry-after": "1" });
    if (status === "failed") return json({ status, ...loadFailedError().body() }, 503);
    if (state.draining()) return json({ status: "draining", ...drainingError().body() }, 503);
    const engine = first.served?.engine;
    // one that can be loaded again is, by the next request
    if (engine?.failure && rows.length === 1)
      return json({ status: "failed", ...engineFailed().body() }, 503);
    if (!authorized) return json({ status: "ok" });
    return json({
      status: "ok",
      version: state.settings.version,
      model: first.name,
      default_model: first.name,
      model_count: rows.length,
      loaded_model_count: rows.filter(({ served }) => served).length,
      ...(first.header ? truthFields(first.header.backend) : {}),
      load_status: first.state,
      warm_control: "not_implemented",
      unload_control: "not_implemented",
      memory_pressure_reporting: "not_implemented",
      default_model_supported_endpoints: engine ? endpointsOf(engine.info) : servedEndpoints,
      supported_endpoints: servedEndpoints,
      structured_output_fallbacks: structuredCapabilities.structured_outputs,
      structured_output_capabilities: structuredCapabilities.structured_output_capabilities,
      ...(engine ? engineFacts(engine.info) : {}),
      ...mediaFields(first.served?.chat.media),
    });
  },
};

/** What is only known of a model that is loaded. */
function engineFacts(info: EngineInfo) {
  const { executionProfile } = modelFacts(info);
  return {
    execution_profile: executionProfile,
    context_length: info.contextLength,
    model_digest: info.model.digest,
    plan_digest: info.planDigest,
  };
}

function engineFailed(): HttpError {
  return new HttpError(503, "The engine has failed; the server must be started again.", {
    type: "backend_unavailable",
    code: "engine_failed",
  });
}
