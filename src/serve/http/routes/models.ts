import { codexModel } from "../codex_model.ts";
import type { Route, ServerState } from "../context.ts";
import { HttpError, json, loadFailedError, loadingError } from "../errors.ts";
import { cardOf } from "../model_card.ts";

/** Every model that can be asked for, loaded or not; the default is the first. */
export const models: Route = {
  method: "GET",
  path: "/models",
  handle: ({ state }) => {
    const rows = started(state).rows;
    const data = rows.map(cardOf);
    const effort = state.settings.reasoningEffort;
    return json({
      object: "list",
      data,
      // what Codex reads in place of `data`
      models: rows.flatMap(({ served }) =>
        served ? [codexModel(served.engine.info, served.chat, effort)] : [],
      ),
      // what Anthropic's clients page by
      first_id: data[0]?.id ?? null,
      last_id: data.at(-1)?.id ?? null,
      has_more: false,
    });
  },
};

export const oneModel: Route = {
  method: "GET",
  path: "/models/:id",
  handle: ({ state, params }) => {
    const row = started(state).find(params.id ?? "");
    if (row) return json(cardOf(row));
    throw new HttpError(404, "No model has this name; /v1/models lists what there is.", {
      code: "model_not_found",
      param: "model",
    });
  },
};

function started({ models: set }: ServerState): ServerState["models"] {
  if (set.status === "loading") throw loadingError();
  if (set.status === "failed") throw loadFailedError();
  return set;
}
