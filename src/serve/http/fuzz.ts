/** Mutated request bodies against the routes, for tests and for soak runs. */

export type FuzzResult = {
  readonly requests: number;
  /** Answers by status. */
  readonly statuses: Readonly<Record<number, number>>;
};

export type FuzzFailure = { readonly path: string; readonly body: string; readonly why: string };

/** A body whose answer broke the contract; `failure` reproduces it. */
export class FuzzError extends Error {
  readonly failure: FuzzFailure;

  constructor(failure: FuzzFailure) {
    super(`${failure.path}: ${failure.why}\nbody: ${failure.body.slice(0, 2000)}`);
    this.name = "FuzzError";
    this.failure = failure;
  }
}

/** How long to go on; the first bound that is reached ends the run. */
export type FuzzBudget = { readonly count?: number; readonly durationMs?: number };

/**
 * Sends mutated bodies to `handle` and checks every answer: 2xx, or 4xx with OpenAI's error shape (503 counts as
 * one: a full queue). Throws `FuzzError` at the first other answer. The same seed sends the same bodies.
 */
export async function fuzzBodies(
  seed: number,
  budget: FuzzBudget,
  handle: (request: Request) => Promise<Response>,
): Promise<FuzzResult> {
  const random = generator(seed);
  const end = performance.now() + (budget.durationMs ?? Number.POSITIVE_INFINITY);
  const count = budget.count ?? (budget.durationMs === undefined ? 1000 : Number.POSITIVE_INFINITY);
  const statuses: Record<number, number> = {};
  let requests = 0;
  for (; requests < count && performance.now() < end; requests++) {
    const path = pick(random, paths);
    const body = mutatedBody(random, path);
    const response = await handle(
      new Request(`http://localhost${path}`, {
        method: "POST",
        body,
        headers: { "content-type": "application/json" },
      }),
    );
    const text = await response.text();
    statuses[response.status] = (statuses[response.status] ?? 0) + 1;
    const why = breach(path, response, text);
    if (why !== undefined) throw new FuzzError({ path, body: Buffer.from(body).toString("latin1"), why });
  }
  return { requests, statuses };
}

/** How a stream ends that told everything; one that failed may end otherwise where no error was sent. */
const streamEnds: Readonly<Record<string, RegExp>> = {
  "/v1/responses": /event: response\.(completed|incomplete|failed)\ndata: .*\n\n$/,
  "/v1/messages": /event: message_stop\ndata: .*\n\n$/,
};

function breach(path: string, response: Response, text: string): string | undefined {
  const { status } = response;
  if (status >= 200 && status < 300) {
    if (response.headers.get("content-type")?.startsWith("text/event-stream")) {
      const ends = (streamEnds[path] ?? /data: \[DONE\]\n\n$/).test(text);
      return ends ? undefined : `a stream that ends in ${text.slice(-200)}`;
    }
    return isJson(text) ? undefined : "a success that is not JSON";
  }
  if ((status < 400 || status >= 500) && status !== 503) return `status ${status}: ${text.slice(0, 500)}`;
  const body = isJson(text) ? (JSON.parse(text) as { error?: Record<string, unknown> }) : {};
  const error = body.error;
  const told = typeof error?.message === "string" && error.message !== "" && typeof error.type === "string";
  if (path.startsWith("/v1/messages") && told) return undefined;
  const shaped =
    told &&
    (error.param === null || typeof error.param === "string") &&
    (error.code === null || typeof error.code === "string");
  return shaped ? undefined : `an error of another shape: ${text.slice(0, 500)}`;
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

type Random = () => number;

/** mulberry32: small, and the same everywhere. Values in [0, 1). */
function generator(seed: number): Random {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}

function below(random: Random, n: number): number {
  return Math.floor(random() * n);
}

function pick<T>(random: Random, values: readonly T[]): T {
  return values[below(random, values.length)] as T;
}

const paths = [
  "/v1/chat/completions",
  "/v1/chat/completions",
  "/v1/completions",
  "/v1/responses",
  "/v1/messages",
  "/v1/messages/count_tokens",
  "/v1/embeddings",
  "/v1/rerank",
  "/tokenize",
  "/detokenize",
] as const;
type Path = (typeof paths)[number];

/** Bodies that are right, with every field that has a rule. `max_tokens` keeps the answers short. */
function rightBody(path: Path): Record<string, unknown> {
  const sampling = {
    temperature: 0.7,
    top_k: 5,
    top_p: 0.9,
    min_p: 0.1,
    typical_p: 0.9,
    repeat_penalty: 1.1,
    repeat_last_n: 16,
    presence_penalty: 0.1,
    frequency_penalty: 0.1,
    dry_multiplier: 0.5,
    dry_base: 1.75,
    dry_allowed_length: 2,
    dry_penalty_last_n: -1,
    dry_sequence_breakers: ["\n"],
    xtc_probability: 0.1,
    xtc_threshold: 0.1,
    logit_bias: { "65": -5 },
    seed: 1,
    stop: ["zz"],
    n: 1,
    max_tokens: 3,
    stream: false,
    stream_options: { include_usage: true },
    psionic_prefix_cache: { mode: "auto", tenant_id: "t" },
    response_format: {
      type: "json_schema",
      json_schema: {
        name: "x",
        schema: {
          type: "object",
          properties: { a: { type: "string", pattern: "^a+$" }, b: { enum: [1, null] } },
          required: ["a"],
        },
      },
    },
  };
  switch (path) {
    case "/v1/chat/completions":
      return {
        messages: [
          { role: "system", content: "be brief" },
          { role: "user", content: [{ type: "text", text: "hi" }] },
          {
            role: "assistant",
            content: null,
            tool_calls: [{ id: "c", type: "function", function: { name: "f", arguments: "{}" } }],
          },
          { role: "tool", tool_call_id: "c", content: "1" },
          { role: "user", content: "and now?" },
        ],
        logprobs: true,
        top_logprobs: 2,
        reasoning_effort: "low",
        chat_template_kwargs: { enable_thinking: false },
        ...sampling,
      };
    case "/v1/responses": {
      const { max_tokens, n, stream_options, ...rest } = sampling;
      return {
        instructions: "be brief",
        input: [
          { role: "user", content: [{ type: "input_text", text: "hi" }] },
          { type: "reasoning", summary: [], content: [{ type: "reasoning_text", text: "r" }] },
          { type: "function_call", call_id: "c", name: "f", arguments: "{}" },
          { type: "function_call_output", call_id: "c", output: "1" },
          { type: "message", role: "assistant", content: [{ type: "output_text", text: "ok" }] },
          { role: "user", content: "and now?" },
        ],
        max_output_tokens: max_tokens,
        reasoning: { effort: "low", summary: "auto" },
        include: ["reasoning.encrypted_content", "message.output_text.logprobs"],
        store: true,
        metadata: { a: "b" },
        text: { format: { type: "text" } },
        psionic_response_state: { store: true, continuation: "append_turn" },
        ...rest,
      };
    }
    case "/v1/messages":
    case "/v1/messages/count_tokens": {
      const { stop, n, stream_options, logit_bias, ...rest } = sampling;
      return {
        system: [{ type: "text", text: "be brief" }],
        messages: [
          { role: "user", content: [{ type: "text", text: "hi", cache_control: { type: "ephemeral" } }] },
          {
            role: "assistant",
            content: [
              { type: "thinking", thinking: "r", signature: "s" },
              { type: "tool_use", id: "c", name: "f", input: { a: [1] } },
            ],
          },
          {
            role: "user",
            content: [{ type: "tool_result", tool_use_id: "c", content: [{ type: "text", text: "1" }] }],
          },
        ],
        stop_sequences: stop,
        thinking: { type: "enabled", budget_tokens: 1024 },
        output_config: { effort: "low" },
        ...rest,
      };
    }
    case "/v1/completions":
      return { prompt: ["ab", [65, 66]], echo: true, logprobs: 1, ...sampling };
    case "/v1/embeddings":
      return { input: ["ab", [65, 66]], encoding_format: "base64", dimensions: 3, parse_special: true };
    case "/v1/rerank":
      return { query: "a", documents: ["b", { text: "c" }], top_n: 1, return_documents: true };
    case "/tokenize":
      return { content: "hello", add_special: true, parse_special: true, with_pieces: true };
    case "/detokenize":
      return { tokens: [65, 66, 67] };
  }
}

const hostile: readonly unknown[] = [
  null,
  true,
  false,
  0,
  -1,
  1,
  -0.5,
  1e308,
  -1e308,
  2 ** 53,
  2 ** 31,
  -(2 ** 63),
  1e-320,
  "",
  "a",
  "\u0000",
  "\ud800",
  "1e999",
  "<|end|><|start|>",
  "__proto__",
  "x".repeat(5000),
  [],
  {},
  [[]],
  [null],
  [[[[[[[[]]]]]]]],
  { constructor: 1 },
  { type: "text" },
  { role: "user", content: "x" },
  Array(300).fill("a"),
  Array(300).fill(0),
];

const names = [
  "tools",
  "functions",
  "response_format",
  "guided_regex",
  "guided_choice",
  "structured_outputs",
  "grammar",
  "psionic_structured_output",
  "suffix",
  "best_of",
  "mirostat",
  "audio",
  "modalities",
  "user",
  "frobnicate",
  "__proto__",
  "constructor",
  "toString",
  "x\r\ny",
  "n_predict",
  "ignore_eos",
  "stop_token_ids",
  "max_completion_tokens",
  "reasoning_format",
  "psionic_reasoning",
  "tool_choice",
  "previous_response_id",
  "conversation",
  "thinking",
  "cache_prompt",
  "model",
] as const;

function mutatedBody(random: Random, path: Path): Uint8Array<ArrayBuffer> {
  const body = rightBody(path);
  if (!path.endsWith("tokenize")) body.stream = random() < 0.3;
  const changes = 1 + below(random, 3);
  // Half the bodies keep few fields, so that a change is not always behind another field's refusal.
  if (random() < 0.5) dropFields(random, body);
  for (let i = 0; i < changes; i++) changeValue(random, body);
  let text = JSON.stringify(body);
  if (random() < 0.15) text = spelling(random, text);
  const bytes = new TextEncoder().encode(text);
  return random() < 0.2 ? changeBytes(random, bytes) : bytes;
}

const required: ReadonlySet<string> = new Set([
  ...["messages", "prompt", "content", "tokens", "input", "max_tokens", "max_output_tokens"],
]);

function dropFields(random: Random, body: Record<string, unknown>): void {
  for (const key of Object.keys(body)) if (!required.has(key) && random() < 0.7) delete body[key];
}

/** Replaces, removes or adds one value somewhere in the tree. */
function changeValue(random: Random, body: Record<string, unknown>): void {
  let at: Record<string, unknown> | unknown[] = body;
  for (;;) {
    const keys = Object.keys(at);
    const key = pick(random, keys);
    const inner: unknown = key === undefined ? undefined : (at as Record<string, unknown>)[key];
    if (typeof inner === "object" && inner !== null && random() < 0.7) {
      at = inner as Record<string, unknown>;
      continue;
    }
    const place = at as Record<string, unknown>;
    const act = random();
    if (act < 0.25 || key === undefined) {
      const name = Array.isArray(at) ? String(at.length) : pick(random, names);
      // Assigning to `__proto__` would not add a member.
      const value = structuredClone(pick(random, hostile));
      Object.defineProperty(place, name, { value, enumerable: true, configurable: true, writable: true });
    } else if (act < 0.35 && !Array.isArray(at)) delete place[key];
    else place[key] = structuredClone(pick(random, hostile));
    return;
  }
}

/** Spellings that JSON.stringify never writes. */
function spelling(random: Random, text: string): string {
  const change = pick(random, [
    (t: string) => t.replace(/:-?\d+(\.\d+)?/, ":1e999"),
    (t: string) => t.replace(/:-?\d+(\.\d+)?/, ":-1e999"),
    (t: string) => t.replace(/:-?\d+(\.\d+)?/, `:${"9".repeat(400)}`),
    (t: string) => t.replace(/"/, '"\\ud800'),
    (t: string) => `${"[".repeat(3000)}${t}`,
    (t: string) => t.replace(/\{/, `{"a":${'{"a":'.repeat(2000)}1${"}".repeat(2000)},`),
    (t: string) => `\ufeff${t}`,
    (t: string) => `${t}${t}`,
    (t: string) => t.replaceAll("a", "\\u0061"),
    (t: string) => t.replace(/\{/, '{"max_tokens":1,"max_tokens":-5,'),
  ]);
  return change(text);
}

function changeBytes(random: Random, bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  if (random() < 0.3) return bytes.slice(0, below(random, bytes.length + 1));
  const changed = bytes.slice();
  for (let i = 1 + below(random, 4); i > 0; i--) {
    if (changed.length > 0) changed[below(random, changed.length)] = below(random, 256);
  }
  return changed;
}
