import type { Route } from "../context.ts";
import { drainingError, HttpError, json, loadFailedError, loadingError } from "../errors.ts";
import { modelFacts, servedEndpoints } from "../model_card.ts";

/** Liveness for anyone; facts about the model for callers with a key. 503 until the model is loaded. */
export const health: Route = {
  method: "GET",
  path: "/health",
  open: true,
  handle: ({ state, authorized }) => {
    const status = state.loadStatus();
    if (status === "loading") return json({ status, ...loadingError().body() }, 503, { "retry-after": "1" });
    if (status === "failed") return json({ status, ...loadFailedError().body() }, 503);
    if (state.draining()) return json({ status: "draining", ...drainingError().body() }, 503);
    const { engine } = state.model();
    if (engine.failure) return json({ status: "failed", ...engineFailed().body() }, 503);
    if (!authorized) return json({ status: "ok" });
    const facts = modelFacts(engine.info);
    return json({
      status: "ok",
      version: state.settings.version,
      model: facts.name,
      default_model: facts.name,
      model_count: 1,
      ...facts.truth,
      load_status: "loaded",
      warm_control: "not_implemented",
      unload_control: "not_implemented",
      memory_pressure_reporting: "not_implemented",
      default_model_supported_endpoints: servedEndpoints,
      supported_endpoints: servedEndpoints,
      execution_profile: facts.executionProfile,
      context_length: engine.info.contextLength,
      model_digest: engine.info.model.digest,
      plan_digest: engine.info.planDigest,
    });
  },
};

function engineFailed(): HttpError {
  return new HttpError(503, "The engine has failed; the server must be started again.", {
    type: "backend_unavailable",
    code: "engine_failed",
  });
}
