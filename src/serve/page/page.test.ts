import { expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { parseApiKeys } from "../http/security.ts";
import { testServer } from "../http/testing/client.ts";
import { scriptedModel } from "../http/testing/scripted.ts";
import { bundledPage } from "./bundled.ts";

const hash = (text: string): string => `'sha256-${createHash("sha256").update(text).digest("base64")}'`;

test("the page comes with its type, a tag to ask again with, and a policy that admits only what is in it", async () => {
  await using server = await testServer(scriptedModel("x"));
  const response = await server.get("/");
  expect(response.status).toBe(200);
  const html = await response.text();
  const header = (name: string): string => response.headers.get(name) ?? "";
  expect(header("content-type")).toBe("text/html; charset=utf-8");
  expect(header("cache-control")).toBe("no-cache");
  expect(header("x-content-type-options")).toBe("nosniff");
  expect(header("x-frame-options")).toBe("DENY");
  const policy = Object.fromEntries(
    header("content-security-policy")
      .split("; ")
      .map((rule) => [rule.split(" ")[0], rule.split(" ").slice(1).join(" ")]),
  );
  const script = /<script>([\s\S]*)<\/script>/.exec(html)?.[1] ?? "";
  const style = /<style>([\s\S]*?)<\/style>/.exec(html)?.[1] ?? "";
  expect(script.length).toBeGreaterThan(1000);
  expect(policy).toEqual({
    "default-src": "'none'",
    "script-src": hash(script),
    "style-src": hash(style),
    "connect-src": "'self'",
    "img-src": "data:",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",
    "trusted-types": "'none'",
  });
  for (const match of [header("etag"), `W/${header("etag")}`, `"other", ${header("etag")}`, "*"]) {
    const again = await server.get("/", { "if-none-match": match });
    expect([match, again.status, await again.text()]).toEqual([match, 304, ""]);
    expect(again.headers.get("etag")).toBe(header("etag"));
  }
  expect((await server.get("/", { "if-none-match": '"other"' })).status).toBe(200);
  const head = await fetch(server.url, { method: "HEAD" });
  expect([head.status, head.headers.get("etag"), await head.text()]).toEqual([200, header("etag"), ""]);
  const wrong = await server.post("/", {});
  expect([wrong.status, wrong.headers.get("allow")]).toEqual([405, "GET, HEAD, OPTIONS"]);
});

test("nothing in it comes from elsewhere, and it stays small", async () => {
  const { html } = await bundledPage();
  expect(html).not.toMatch(/\b(?:src|href)=["']?(?:https?:)?\/\//i);
  expect(html).not.toMatch(/@import|url\(/);
  expect(html).not.toMatch(/innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function/);
  expect(html).not.toMatch(/ style="| on[a-z]+="/);
  expect(html.length).toBeLessThan(96_000);
});

test("it is there without a key, and says nothing that needs one", async () => {
  const apiKeys = parseApiKeys("first-key-123");
  await using server = await testServer(scriptedModel("x"), { apiKeys });
  const response = await server.get("/");
  expect(response.status).toBe(200);
  expect(await response.text()).not.toContain("Test-Model");
  expect((await server.get("/psionic/management/activity")).status).toBe(401);
  expect((await server.get("/", { host: "evil.example" })).status).toBe(403);
});

test("a server without the page answers as for any unknown path", async () => {
  await using server = await testServer(scriptedModel("x"), { page: false });
  const response = await server.get("/");
  expect(response.status).toBe(404);
  expect((await response.json()).error.code).toBe("not_found");
});
