/** The same request alone, among 8 and among 64, with a cold and a warm prefix cache: the same bits. */

import { startEngine } from "../../src/serve/engine/index.ts";
import type { Engine, GenerateRequest } from "../../src/serve/protocol.ts";
import { openText } from "../../src/serve/served_model.ts";
import { type Check, defaultModel } from "./check.ts";

const tokens = 48;
const question =
  "The network keeps every page that it was given, and a reader who comes back finds them where they were. " +
  "Explain in a few sentences why that matters, what it costs, and how somebody would notice if it went wrong.";

export async function batch({ backend, report }: Check): Promise<void> {
  const { tokenizer } = openText(defaultModel);
  const engine = await startEngine({ modelPath: defaultModel, backend, slots: 64, contextLength: 1024 });
  const ask = (prompt: readonly number[], prefixCache: "auto" | "bypass") =>
    answer(engine, {
      ...{ prompt, maxTokens: tokens, sampling: {}, stopTokens: [], choices: 1, topLogprobs: 4, prefixCache },
    });
  const target = tokenizer.encode(question, { special: false });
  const other = (i: number) =>
    tokenizer.encode(`Topic ${i}: ${question.slice(0, 20 + ((i * 29) % 150))}, and the number ${i * 37}`, {
      special: false,
    });
  const alone = await ask(target, "bypass");
  for (const [cache, name] of [
    ["bypass", "cold cache"],
    ["auto", "warm cache"],
  ] as const) {
    // the first of these fills the cache, later ones read it
    if (cache === "auto") await ask(target, cache);
    for (const size of [1, 8, 64]) {
      const before = engine.stats().prefixHits;
      const [got] = await Promise.all([
        ask(target, cache),
        ...Array.from({ length: size - 1 }, (_, i) => ask(other(i), "bypass")),
      ]);
      const hit = engine.stats().prefixHits > before;
      const same = Bun.deepEquals(got, alone) && (cache === "bypass" || hit);
      report({
        what: `${tokens} tokens and their log-probabilities, among ${size}, ${name}`,
        required: "equal to alone and cold",
        got: same ? "equal" : hit || cache === "bypass" ? difference(got!, alone) : "no cache hit",
        ok: same,
      });
    }
  }
  await engine.close(true);
}

type Chosen = readonly (readonly number[])[];

/** Per token its id and the exact numbers of its log-probability and those of the alternatives. */
async function answer(engine: Engine, request: GenerateRequest): Promise<Chosen> {
  const chosen: number[][] = [];
  for await (const event of engine.generate(request)) {
    if (event.type !== "token") continue;
    const alternatives = (event.top ?? []).flatMap(({ token, logprob }) => [token, logprob]);
    chosen.push([event.token, event.logprob ?? Number.NaN, ...alternatives]);
  }
  return chosen;
}

function difference(a: Chosen, b: Chosen): string {
  const at = a.findIndex((numbers, i) => !Bun.deepEquals(numbers, b[i]));
  return `differs from token ${at} on: ${a[at]?.slice(0, 2)} for ${b[at]?.slice(0, 2)}`;
}
