import type { Route } from "../context.ts";

export const metrics: Route = {
  method: "GET",
  path: "/metrics",
  handle: async ({ state }) =>
    new Response(await state.metrics.text(), { headers: { "content-type": state.metrics.contentType } }),
};
