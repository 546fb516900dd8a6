import { must, type Probe, skip } from "../probe.ts";
import { chat, contextOf, modelEntry, readChatStream } from "../shapes.ts";
import type { Target } from "../target.ts";
import { uniquePrompt } from "./running.ts";

const path = "/v1/chat/completions";

/** Tokens asked of the long answer, one try after the other: a fast server needs more to be caught in the act. */
const lengths = [200, 800, 3200] as const;
/** Tokens asked of the short answer. */
const shortTokens = 8;
/** The long answer goes on beside the short one: at least this part of its bytes comes when the short one has ended. */
const restPart = 0.25;
/** A short answer that waits for so many times what it takes alone waits for its turn, if it does so every time. */
const waitsLong = 10;
const tries = 3;
/** A wait below this is not told from a machine that was busy with something else, milliseconds. */
const noiseMs = 250;

/**
 * The order of ends tells, not the time between them: a long answer has begun when a short one is asked for, so where one
 * request waits for the other the short one ends last at any speed. That it ended last counts against a server only where it
 * waited long, by the server's own measure, every time: else the long answer was too short to tell.
 */
export const severalAtOnce: Probe = {
  name: "complaints.several-at-once",
  requires: "two requests are answered at once by default",
  threads: "ollama/ollama#10699, #11277, #358, #1396",
  run: async (target) => {
    const context = contextOf(await modelEntry(target)) ?? Infinity;
    // the first answer of a server pays for what is made when it is first needed
    await short(target);
    const aloneMs = Math.max(await short(target), await short(target));
    const mostMs = Math.max(noiseMs, waitsLong * aloneMs);
    let most = 0;
    for (const tokens of lengths.filter((n) => n + 200 < context)) {
      const waits: number[] = [];
      for (let i = 0; i < tries; i++) {
        const tried = await besideLong(target, tokens);
        most = Math.max(most, tried.bytes);
        if (tried.restBytes >= restPart * tried.bytes) return remarkOf(tried);
        if (tried.waitedMs < mostMs) break;
        waits.push(tried.waitedMs);
      }
      const wanted = `a short answer, ${Math.round(aloneMs)} ms alone, within ${Math.round(mostMs)} ms`;
      const got = `${Math.round(Math.min(...waits))} ms at best of ${tries}, until the long one had ended`;
      must(waits.length < tries, wanted, got);
    }
    skip(`the longest answer, ${most} bytes, has ended before another request can be seen to wait`);
  },
};

function remarkOf({ restBytes, bytes }: Beside): string {
  return `${restBytes} of ${bytes} bytes came after the short answer`;
}

/** Milliseconds of a short answer. */
async function short(target: Target): Promise<number> {
  const messages = [{ role: "user", content: uniquePrompt(5) }];
  const asked = chat(target, { messages, stream: true, max_tokens: shortTokens, ignore_eos: true });
  const reply = await target.stream(path, asked);
  readChatStream(reply);
  return reply.ms;
}

type Beside = {
  /** Of the long answer: all, and what came when the short one had ended. */
  readonly bytes: number;
  readonly restBytes: number;
  /** From asking for the short answer to its end. */
  readonly waitedMs: number;
};

async function besideLong(target: Target, tokens: number): Promise<Beside> {
  const messages = [{ role: "user", content: `${uniquePrompt(5)} Count from 1 to 2000.` }];
  const asked = chat(target, { messages, stream: true, max_tokens: tokens, ignore_eos: true });
  const response = await target.open(path, asked);
  must(response.status === 200 && response.body !== null, "a stream with status 200", response.status);
  const reader = response.body.getReader();
  let bytes = (await reader.read()).value?.length ?? 0;
  const rest = (async () => {
    for (let part = await reader.read(); !part.done; part = await reader.read()) bytes += part.value.length;
  })();
  const ended = short(target).then((ms) => [ms, bytes] as const);
  const [[waitedMs, atEnd]] = await Promise.all([ended, rest]);
  return { bytes, restBytes: bytes - atEnd, waitedMs };
}
