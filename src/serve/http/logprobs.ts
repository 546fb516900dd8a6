import type { Tokenizer } from "../../models/tokenizer/tokenizer.ts";
import type { TokenRecord } from "../choice.ts";
import type { TokenLogprob } from "../protocol.ts";

const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });

/** What stands for minus infinity on the wire, as OpenAI has it. */
const least = -9999;

function tokenEntry(tokenizer: Tokenizer, { token, logprob }: TokenLogprob) {
  const bytes = tokenizer.tokenBytes(token);
  return { token: utf8.decode(bytes), logprob: Math.max(logprob, least), bytes: [...bytes] };
}

/** An entry of a chat answer's `logprobs.content`. */
export function chatLogprob(tokenizer: Tokenizer, record: TokenRecord) {
  return {
    ...tokenEntry(tokenizer, record),
    top_logprobs: record.top.map((other) => tokenEntry(tokenizer, other)),
  };
}

export type ChatLogprob = ReturnType<typeof chatLogprob>;

/** `logprobs` of /v1/completions: parallel arrays. */
export type CompletionLogprobs = {
  readonly tokens: string[];
  readonly token_logprobs: (number | null)[];
  readonly top_logprobs: (Record<string, number> | null)[];
  readonly text_offset: number[];
};

export function emptyCompletionLogprobs(): CompletionLogprobs {
  return { tokens: [], token_logprobs: [], top_logprobs: [], text_offset: [] };
}

/** Adds a token; the first token of a prompt has no log-probability. */
export function addCompletionLogprob(
  tokenizer: Tokenizer,
  into: CompletionLogprobs,
  token: number,
  entry: { readonly logprob: number; readonly top: readonly TokenLogprob[] } | undefined,
  offset: number,
): void {
  into.tokens.push(utf8.decode(tokenizer.tokenBytes(token)));
  into.token_logprobs.push(entry === undefined ? null : Math.max(entry.logprob, least));
  into.top_logprobs.push(
    entry === undefined || entry.top.length === 0
      ? null
      : Object.fromEntries(
          entry.top.map((other) => [
            utf8.decode(tokenizer.tokenBytes(other.token)),
            Math.max(other.logprob, least),
          ]),
        ),
  );
  into.text_offset.push(offset);
}
