/** The parts of benchmark-gpt-oss-vs-llama that need no server: its command line, its requests, what is visible of an answer. */
import { basename } from "node:path";
import { parseArgs } from "node:util";

export type HarnessOptions = {
  readonly server: "both" | "psionic" | "llama";
  readonly model: string;
  readonly psionicBin: string | undefined;
  readonly psionicBackend: string;
  readonly psionicMetalMode: "native" | "proxy";
  readonly llamaBin: string | undefined;
  readonly host: string;
  readonly port: number;
  readonly ctx: number;
  readonly ngl: number;
  readonly maxTokens: number;
  readonly startupSeconds: number;
  readonly requestSeconds: number;
  readonly jsonOut: string | undefined;
};

class FlagError extends Error {}

/** Options of a command line; throws with one line that says what is wrong. */
export function harnessOptions(args: readonly string[], platform: string): HarnessOptions {
  const mac = platform === "darwin";
  const text = (value?: string) =>
    ({ type: "string", ...(value === undefined ? {} : { default: value }) }) as const;
  let values: Readonly<Record<string, string | undefined>>;
  try {
    values = parseArgs({
      args: [...args],
      options: {
        ...{ server: text("both"), model: text(), "json-out": text() },
        ...{ "psionic-bin": text(), "psionic-backend": text(mac ? "metal" : "cuda") },
        ...{ "psionic-metal-mode": text("native"), "llama-bin": text() },
        ...{ host: text("127.0.0.1"), port: text("8099"), ctx: text(mac ? "1024" : "4096"), ngl: text() },
        ...{
          "max-tokens": text("64"),
          "startup-timeout-seconds": text("60"),
          "request-timeout-seconds": text("60"),
        },
      },
    }).values as Readonly<Record<string, string | undefined>>;
  } catch (error) {
    throw new FlagError(error instanceof Error ? error.message : String(error));
  }
  const one = <T extends string>(flag: string, ...allowed: readonly T[]): T => {
    const value = values[flag] as T;
    if (allowed.includes(value)) return value;
    throw new FlagError(`--${flag}: expected ${allowed.join(", ")}, got ${value}`);
  };
  const whole = (flag: string, least: number, most = Number.MAX_SAFE_INTEGER): number => {
    const value = Number(values[flag] || Number.NaN);
    if (Number.isInteger(value) && value >= least && value <= most) return value;
    const range = most === Number.MAX_SAFE_INTEGER ? `from ${least}` : `from ${least} to ${most}`;
    throw new FlagError(`--${flag}: expected a whole number ${range}, got ${values[flag]}`);
  };
  const backend = one("psionic-backend", "auto", "cpu", "cuda", "metal");
  const server = one("server", "both", "psionic", "llama");
  if (!values.model) throw new FlagError("--model: expected a file, got none");
  if (server !== "psionic" && !values["llama-bin"])
    throw new FlagError("--llama-bin: expected a program, got none");
  return {
    ...{ server, model: values.model, psionicBin: values["psionic-bin"], psionicBackend: backend },
    psionicMetalMode: one("psionic-metal-mode", "native", "proxy"),
    ...{
      llamaBin: values["llama-bin"],
      host: values.host!,
      port: whole("port", 1, 65_535),
      ctx: whole("ctx", 1),
    },
    // on the CPU there are no layers to place
    ngl: values.ngl === undefined ? (backend === "cpu" ? 0 : mac ? 4 : 999) : whole("ngl", 0),
    maxTokens: whole("max-tokens", 1),
    startupSeconds: whole("startup-timeout-seconds", 1),
    requestSeconds: whole("request-timeout-seconds", 1),
    jsonOut: values["json-out"],
  };
}

const system =
  "You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\nCurrent date: 2026-03-08\n\n" +
  "Reasoning: low\n\n# Valid channels: analysis, final. Channel must be included for every message.";
const developer = "Be concise. Output exactly one sentence.";
const sentence = (subject: string) =>
  `${subject} protects users by encrypting traffic, preventing tampering, and confirming they are connected to the right website.`;

/** The requests in the order in which they are sent, with the sentence each asks for. */
export const cases = [
  { name: "cold", sentence: sentence("HTTPS") },
  { name: "warm_non_hit", sentence: sentence("TLS") },
  { name: "prompt_cache_hit", sentence: sentence("HTTPS") },
] as const;
export type Case = (typeof cases)[number];

export function requestBody(options: Pick<HarnessOptions, "model" | "maxTokens">, asked: Case) {
  return {
    model: basename(options.model),
    messages: [
      { role: "system", content: system },
      { role: "developer", content: developer },
      { role: "user", content: `Reply with exactly this sentence and nothing else: ${asked.sentence}` },
    ],
    max_tokens: options.maxTokens,
    temperature: 0,
    reasoning_format: "none",
    chat_template_kwargs: { enable_thinking: false },
  };
}

/** Content without the spans that are reasoning, without the marks around the rest, and without outer newlines. */
export function visibleOutput(content: string): string {
  return content
    .replace(/<\|channel\|>analysis<\|message\|>[\s\S]*?(<\|end\|>|$)/g, "")
    .replace(/<think>[\s\S]*?(<\/think>|$)/g, "")
    .replace(/<\|start\|>assistant/g, "")
    .replace(/<\|channel\|>(final|commentary)<\|message\|>/g, "")
    .replace(/<\|(end|return)\|>/g, "")
    .replace(/^\n+|\n+$/g, "");
}
