import { must, type Probe, skip } from "../probe.ts";
import { chat, mustBeError } from "../shapes.ts";

const path = "/v1/chat/completions";

/** Numbers that made servers read or write outside their memory, or compute for ever. */
const hostileNumbers: readonly (readonly [field: string, json: string, mayPass: boolean])[] = [
  ["n", "1000000000", false],
  ["n", "-1", false],
  ["max_tokens", "-5", false],
  ["top_logprobs", "1000000", false],
  ["temperature", "1e400", false],
  ["top_k", "-1099511627776", true],
  ["n_discard", "-1", true],
  ["n_keep", "-2147483648", true],
  ["dry_allowed_length", "-1", true],
  ["repeat_last_n", "-99999999", true],
  ["seed", "1e300", true],
];

/** The floor that the record of vulnerabilities sets, as far as requests can show it. */
export const securityProbes: readonly Probe[] = [
  {
    name: "security.keys",
    requires: "a key guards every route but liveness",
    threads: "vLLM's security page",
    script: { answers: ["<|channel|>final<|message|>Hi.<|return|>"] },
    own: { apiKey: "conformance-key" },
    run: async (target) => {
      if (target.apiKey === undefined) skip("no key was given");
      const gets = ["/v1/models", "/props", "/metrics", "/psionic/management/status"];
      const posts = [path, "/v1/completions", "/v1/responses", "/v1/messages", "/v1/embeddings", "/tokenize"];
      for (const apiKey of [null, "a-wrong-key"]) {
        const replies = [
          ...gets.map((route) => target.get(route, { apiKey })),
          ...posts.map((route) => target.post(route, {}, { apiKey })),
        ];
        for (const [i, reply] of (await Promise.all(replies)).entries()) {
          const refused = [401, 403, 404].includes(reply.status);
          must(refused, `401 without a right key at ${[...gets, ...posts][i]}`, reply.status);
        }
      }
      const right = await target.post(path, chat(target, { max_tokens: 4 }));
      must(right.status === 200, "200 with the key", right.status);
      return undefined;
    },
  },
  {
    name: "security.host",
    requires: "a foreign Host header is refused: a page must not rebind its name to this machine",
    threads: "Ollama CVE-2024-28224",
    run: async (target) => {
      const reply = await target.get("/v1/models", { headers: { host: "rebound.example" } });
      mustBeError(reply, 403, 421);
      return undefined;
    },
  },
  {
    name: "security.origin",
    requires: "a page of another origin may not call",
    threads: "ggml-org/llama.cpp#25606, #25655",
    run: async (target) => {
      const origin = "https://page.example";
      const reply = await target.post(path, chat(target, { max_tokens: 1 }), { headers: { origin } });
      const allowed = reply.headers.get("access-control-allow-origin");
      must(allowed === null, "no access-control-allow-origin for a foreign page", allowed);
      const refused = reply.status >= 400 && reply.status < 500;
      must(refused, "a 4xx, for a form post asks no permission first", reply.status);
      return undefined;
    },
  },
  {
    name: "security.numbers",
    requires: "numbers out of range are refused or harmless; never a 500",
    threads: "llama.cpp CVE-2026-21869, ggml-org/llama.cpp#24017",
    run: async (target) => {
      for (const [field, number, mayPass] of hostileNumbers) {
        const more = field === "top_logprobs" ? { logprobs: true } : {};
        const body = JSON.stringify(chat(target, { max_tokens: 1, ...more, [field]: "@" }));
        const reply = await target.post(path, body.replace('"@"', number));
        const fine = reply.status < 500 && (mayPass || reply.status !== 200);
        must(fine, `a refusal of ${field} ${number}`, `${reply.status} ${reply.text}`);
      }
      return undefined;
    },
  },
  {
    name: "security.bodies",
    requires: "bodies that are no request are 4xx with a readable error",
    run: async (target) => {
      const deep = "[".repeat(50_000);
      for (const body of ["", "null", "[]", '{"messages":', deep, '{"messages":{}}', "\u0000\u0001"]) {
        const reply = await target.post(path, body);
        must(reply.status >= 400 && reply.status < 500, `4xx for ${body.slice(0, 20)}`, reply.status);
        mustBeError(reply, reply.status);
      }
      return undefined;
    },
  },
];
