/**
 * Asks a running server one question and prints the answer as it comes, then speed, what computed it and the model.
 * Usage: bun scripts/ask.ts URL QUESTION          Exits 1 when no complete answer came.
 */
const [url, question] = process.argv.slice(2);
if (!url || !question) throw new Error("usage: bun scripts/ask.ts URL QUESTION");

type Chunk = {
  readonly choices: readonly {
    readonly delta: { readonly content?: string };
    readonly finish_reason?: string;
  }[];
  readonly usage?: { readonly completion_tokens: number };
  readonly error?: { readonly message: string };
};

/** The `data:` lines of an event stream. */
async function* events(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  let rest = "";
  const decoder = new TextDecoder();
  for await (const bytes of body) {
    rest += decoder.decode(bytes, { stream: true });
    const lines = rest.split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) if (line.startsWith("data: ")) yield line.slice(6).trim();
  }
}

const sent = performance.now();
const response = await fetch(`${url}/v1/chat/completions`, {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify({
    messages: [{ role: "user", content: question }],
    stream: true,
    stream_options: { include_usage: true },
  }),
});
if (!response.ok || !response.body) throw new Error(`status ${response.status}: ${await response.text()}`);

process.stdout.write(`> ${question}\n`);
let finish: string | undefined;
let tokens = 0;
let last = sent;
for await (const data of events(response.body)) {
  if (data === "[DONE]") break;
  const chunk = JSON.parse(data) as Chunk;
  if (chunk.error) throw new Error(chunk.error.message);
  const choice = chunk.choices[0];
  if (choice?.delta.content) {
    last = performance.now();
    process.stdout.write(choice.delta.content);
  }
  finish = choice?.finish_reason ?? finish;
  tokens = chunk.usage?.completion_tokens ?? tokens;
}
process.stdout.write("\n\n");

const health = (await (await fetch(`${url}/health`)).json()) as Record<string, unknown>;
const models = (await (await fetch(`${url}/v1/models`)).json()) as { data: Record<string, unknown>[] };
const truth = [
  "backend",
  "execution_mode",
  "execution_engine",
  "residency_mode",
  "hybrid_offload",
  "fallback_policy",
  "performance_class",
];
const seconds = (last - sent) / 1000;
console.log(
  `speed   ${Math.round(tokens / seconds)} tokens/s: ${tokens} in ${seconds.toFixed(2)} s, the prompt included`,
);
console.log(`truth   ${truth.map((name) => `${name}=${health[name]}`).join(" ")}`);
console.log(`model   ${models.data[0]?.id} ${digestOf(models.data[0] ?? {})}`);
if (finish !== "stop") throw new Error(`expected a complete answer, got finish_reason ${finish}`);

/** The model's content digest, wherever the card carries it. */
function digestOf(card: unknown): string {
  const found = /sha256:[0-9a-f]{64}/.exec(JSON.stringify(card));
  if (!found) throw new Error("expected a digest in the model card, got none");
  return found[0];
}
