import type { Route } from "../context.ts";
import { HttpError, json } from "../errors.ts";
import { modelCard, namesModel } from "../model_card.ts";

export const models: Route = {
  method: "GET",
  path: "/models",
  handle: ({ state }) => {
    const { engine, chat } = state.model();
    return json({ object: "list", data: [modelCard(engine.info, chat)] });
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
