import { randomUUID } from "node:crypto";
import { at, textAt } from "../json.ts";
import type { Target } from "../target.ts";

/** Gauges of the servers we know that count requests in work. */
const gauges = [
  "psionic_sequences_active",
  "llamacpp:requests_processing",
  "vllm:num_requests_running",
  "sglang:num_running_reqs",
] as const;

/** How many requests a server works on; undefined where its metrics do not tell. */
export async function runningNow(target: Target): Promise<number | undefined> {
  const { status, text } = await target.get("/metrics");
  if (status !== 200) return undefined;
  for (const name of gauges) {
    const lines = [...text.matchAll(new RegExp(`^${name}(?:\\{.*\\})? ([\\d.e+-]+)$`, "gm"))];
    if (lines.length > 0) return lines.reduce((sum, [, value]) => sum + Number(value), 0);
  }
  return undefined;
}

/** A prompt of about `words` words that no cache has seen. */
export function uniquePrompt(words: number): string {
  return `${randomUUID()} ${"the web is safe because ".repeat(Math.ceil(words / 5))}`;
}

/** Reasoning and content of a whole answer's choice. */
export function answerText(choice: unknown): string {
  const message = at(choice, "message");
  return textAt(message, "reasoning_content") + textAt(message, "content");
}
