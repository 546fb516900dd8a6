import type { Route } from "../http/context.ts";
import { bundledPage } from "./bundled.ts";

/**
 * The page for people: one document without anything from elsewhere. Open without a key, since a browser sends none when it
 * opens an address; the page says nothing about this server until it has asked the API with the key that a user gives.
 */
export const pageRoute: Route = {
  method: "GET",
  path: "/",
  open: true,
  handle: async ({ request }) => {
    const { html, etag, policy } = await bundledPage();
    const headers = {
      "content-type": "text/html; charset=utf-8",
      // asked for again each time, answered with 304 while it is the same
      "cache-control": "no-cache",
      etag,
      "content-security-policy": policy,
      "x-frame-options": "DENY",
      "referrer-policy": "no-referrer",
      "cross-origin-resource-policy": "same-origin",
      "permissions-policy": "camera=(), geolocation=(), microphone=()",
    };
    if (unchanged(request.headers.get("if-none-match"), etag)) {
      return new Response(null, { status: 304, headers });
    }
    return new Response(html, { headers });
  },
};

function unchanged(header: string | null, etag: string): boolean {
  if (header === null) return false;
  return header.split(",").some((tag) => ["*", etag].includes(tag.trim().replace(/^W\//, "")));
}
