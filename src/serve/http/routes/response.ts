import type { Route } from "../context.ts";
import { badField, HttpError, json, unsupportedField } from "../errors.ts";
import { unknownResponse } from "../responses/store.ts";

/** An answer that is kept, or is being made. */
export const getResponse: Route = {
  method: "GET",
  path: "/responses/:id",
  handle: ({ state, params, keyIndex, request }) => {
    if (new URL(request.url).searchParams.get("stream") === "true") {
      throw unsupportedField("stream", "replaying a stream", "Ask without it for the answer as it is.");
    }
    const { id = "" } = params;
    const found = state.responses.find(id, keyIndex)?.resource;
    const resource = found ?? state.responses.findRunning(id, keyIndex)?.resource();
    if (!resource) throw unknownResponse(undefined);
    return json(resource);
  },
};

export const deleteResponse: Route = {
  method: "DELETE",
  path: "/responses/:id",
  handle: ({ state, params, keyIndex }) => {
    const { id = "" } = params;
    if (state.responses.findRunning(id, keyIndex)) {
      const message = `The response is being made. Cancel it first: POST /v1/responses/${id}/cancel.`;
      throw new HttpError(409, message, { code: "response_in_progress" });
    }
    if (!state.responses.delete(id, keyIndex)) throw unknownResponse(undefined);
    return json({ id, object: "response", deleted: true });
  },
};

/** Ends an answer that is being made; one that is over stays as it is. */
export const cancelResponse: Route = {
  method: "POST",
  path: "/responses/:id/cancel",
  handle: ({ state, params, keyIndex }) => {
    const { id = "" } = params;
    const running = state.responses.findRunning(id, keyIndex);
    if (running) {
      running.cancel();
      return json({ ...running.resource(), status: "cancelled" });
    }
    const found = state.responses.find(id, keyIndex);
    if (!found) throw unknownResponse(undefined);
    return json(found.resource);
  },
};

const maxListed = 100;

/** What was asked for an answer, newest first unless asked otherwise, in pages. */
export const inputItems: Route = {
  method: "GET",
  path: "/responses/:id/input_items",
  handle: ({ state, params, keyIndex, request }) => {
    const { id = "" } = params;
    const found = state.responses.find(id, keyIndex) ?? state.responses.findRunning(id, keyIndex);
    if (!found) throw unknownResponse(undefined);
    const query = new URL(request.url).searchParams;
    const limit = Number(query.get("limit") ?? 20);
    if (!Number.isInteger(limit) || limit < 1 || limit > maxListed) {
      throw badField("limit", `a whole number from 1 to ${maxListed}`, "something else");
    }
    const order = query.get("order") ?? "desc";
    if (order !== "asc" && order !== "desc") throw badField("order", "asc or desc", "something else");
    const items = order === "asc" ? found.inputItems : [...found.inputItems].reverse();
    const after = query.get("after");
    const start = after === null ? 0 : items.findIndex((item) => item.id === after) + 1;
    if (after !== null && start === 0)
      throw badField("after", "the id of an item of this response", "another id");
    const data = items.slice(start, start + limit);
    return json({
      object: "list",
      data,
      first_id: data[0]?.id ?? null,
      last_id: data.at(-1)?.id ?? null,
      has_more: start + limit < items.length,
    });
  },
};
