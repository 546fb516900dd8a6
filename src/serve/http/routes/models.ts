import { codexModel } from "../codex_model.ts";
import type { Route } from "../context.ts";
import { HttpError, json } from "../errors.ts";
import { modelCard, namesModel } from "../model_card.ts";

export const models: Route = {
  method: "GET",
  path: "/models",
  handle: ({ state }) => {
    const { engine, chat } = state.model();
    const card = modelCard(engine.info, chat);
    return json({
      object: "list",
      data: [card],
      // what Codex reads in place of `data`
      models: [codexModel(engine.info, chat, state.settings.reasoningEffort)],
      // what Anthropic's clients page by
      first_id: card.id,
      last_id: card.id,
      has_more: false,
    });
  },
};

export const oneModel: Route = {
  method: "GET",
  path: "/models/:id",
  handle: ({ state, params }) => {
    const { engine, chat } = state.model();
    if (namesModel(engine.info, params.id ?? "")) return json(modelCard(engine.info, chat));
    throw new HttpError(404, "No model of this name is loaded; /v1/models lists what is.", {
      code: "model_not_found",
      param: "model",
    });
  },
};
