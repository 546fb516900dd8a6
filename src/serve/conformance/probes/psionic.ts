import { at, type Json, textAt } from "../json.ts";
import { must, type Probe, skip } from "../probe.ts";
import { chat, modelEntry, readChoice } from "../shapes.ts";
import type { Target } from "../target.ts";

const tuple = [
  "backend",
  "execution_mode",
  "execution_engine",
  "residency_mode",
  "hybrid_offload",
  "fallback_policy",
  "performance_class",
] as const;

/** Header of a member of the tuple. */
const headerOf = (name: string): string => `x-psionic-${name.replaceAll("_", "-")}`;

/** Forms of output, and what then must be said. */
const structures = [
  {
    psionic_structured_output: { kind: "choice", values: ["left", "right"] },
    fits: /^(left|right)$/,
  },
  {
    psionic_structured_output: { kind: "regex", pattern: "[0-9]{3}-[a-f]{2}" },
    fits: /^[0-9]{3}-[a-f]{2}$/,
  },
  {
    psionic_structured_output: { kind: "grammar", syntax: "gbnf", grammar: 'root ::= "a" [0-9] "b"' },
    fits: /^a[0-9]b$/,
  },
] as const;

async function psionicEntry(target: Target): Promise<Json> {
  const entry = await modelEntry(target);
  if (at(entry, "owned_by") !== "psionic") skip("this is no psionic server");
  return entry as Json;
}

/** What psionic promises beyond what clients require. */
export const psionicProbes: readonly Probe[] = [
  {
    name: "psionic.truth",
    requires: "the truth tuple is the same in the model's entry, in /health and in the headers of an answer",
    run: async (target) => {
      const entry = await psionicEntry(target);
      const health = (await target.get("/health")).json;
      const { headers } = await target.post("/v1/chat/completions", chat(target, { max_tokens: 1 }));
      for (const name of tuple) {
        const listed = entry[name === "backend" ? "psionic_served_backend" : `psionic_${name}`];
        must(typeof listed === "string" && listed !== "", `${name} in the model's entry`, listed);
        must(at(health, name) === listed, `${name}=${listed} in /health`, at(health, name));
        must(
          headers.get(headerOf(name)) === listed,
          `${headerOf(name)}: ${listed}`,
          headers.get(headerOf(name)),
        );
      }
      must(
        at(health, "fallback_policy") === "refuse",
        "fallback_policy refuse",
        at(health, "fallback_policy"),
      );
      return tuple.map((name) => `${name}=${String(at(health, name))}`).join(" ");
    },
  },
  {
    name: "psionic.structured",
    requires: "choice, regex and grammar hold, each alone and after one another",
    run: async (target) => {
      await psionicEntry(target);
      for (const { psionic_structured_output, fits } of structures) {
        const reply = await target.post(
          "/v1/chat/completions",
          chat(target, { psionic_structured_output, max_tokens: 400 }),
        );
        const text = textAt(readChoice(reply), "message", "content");
        must(fits.test(text), `text that fits ${fits}`, text);
      }
      return undefined;
    },
  },
  {
    name: "psionic.ignored",
    requires: "fields that nobody reads are named in x-psionic-ignored",
    run: async (target) => {
      await psionicEntry(target);
      const reply = await target.post(
        "/v1/chat/completions",
        chat(target, { max_tokens: 1, no_such_field: 1 }),
      );
      const named = reply.headers.get("x-psionic-ignored") ?? "nothing";
      must(named.includes("no_such_field"), "no_such_field in x-psionic-ignored", named);
      return undefined;
    },
  },
  {
    name: "psionic.request-id",
    requires: "every answer has a request id, errors too",
    run: async (target) => {
      await psionicEntry(target);
      for (const path of ["/v1/models", "/no/such/path", "/health"]) {
        const id = (await target.get(path)).headers.get("x-request-id") ?? "";
        must(id !== "", `x-request-id of ${path}`, "none");
      }
      return undefined;
    },
  },
];
