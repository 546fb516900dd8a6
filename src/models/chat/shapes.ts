import type { AnswerShape, AnswerWish } from "./types.ts";

/** The forms of answers of the formats that have calls. */

const mark = (text: string): AnswerShape => ({ kind: "mark", text });
const plain = (text: string): AnswerShape => ({ kind: "text", text });
const seq = (...of: readonly AnswerShape[]): AnswerShape => ({ kind: "seq", of });
const choice = (...of: readonly AnswerShape[]): AnswerShape => ({ kind: "choice", of });
const repeat = (of: AnswerShape, min: number, max: number): AnswerShape => ({ kind: "repeat", of, min, max });
const optional = (of: AnswerShape): AnswerShape => repeat(of, 0, 1);
const free: AnswerShape = { kind: "free" };

/** A tool as the format writes its name. */
export type WrittenTool = { readonly tool: string; readonly written: string };

/** Harmony, behind `<|start|>assistant`: thoughts and preambles, then the final message or a call, which ends the answer. */
export function harmonyShape(wish: AnswerWish, recipients: readonly WrittenTool[]): AnswerShape {
  const next = seq(mark("<|end|>"), mark("<|start|>"), plain("assistant"));
  const message = (channel: string): AnswerShape =>
    seq(mark("<|channel|>"), plain(channel), mark("<|message|>"));
  const calls = wish.calls !== "none" && recipients.length > 0;
  const before = [seq(message("analysis"), free, next)];
  if (calls && wish.text !== "none") before.push(seq(message("commentary"), free, next));
  const ends: AnswerShape[] = [];
  if (wish.text === "free") ends.push(seq(message("final"), free));
  if (wish.text === "own") {
    const typed = seq(plain(" "), mark("<|constrain|>"), plain("json"));
    const head = seq(mark("<|channel|>"), plain("final"), optional(typed), mark("<|message|>"));
    ends.push(seq(head, { kind: "content" }));
  }
  if (calls) ends.push(harmonyCall(recipients));
  return seq(repeat(choice(...before), 0, Number.POSITIVE_INFINITY), choice(...ends));
}

/** The recipient stands behind the channel or, as templates write it, before it. */
function harmonyCall(recipients: readonly WrittenTool[]): AnswerShape {
  const channel = seq(mark("<|channel|>"), choice(plain("commentary"), plain("analysis")));
  const typed = optional(choice(seq(plain(" "), mark("<|constrain|>"), plain("json")), plain(" json")));
  const body = (tool: string): AnswerShape => ({ kind: "arguments", tool, notation: "json" });
  const behind = recipients.map(({ tool, written }) =>
    seq(plain(written), typed, mark("<|message|>"), body(tool)),
  );
  const before = recipients.map(({ tool, written }) =>
    seq(plain(written), channel, typed, mark("<|message|>"), body(tool)),
  );
  return choice(seq(channel, plain(" to="), choice(...behind)), seq(plain(" to="), choice(...before)));
}

/** Answers that may think between `<think>` and `</think>`, then say one text or make calls. */
export function thinkShape(
  wish: AnswerWish,
  call: AnswerShape | undefined,
  think: "open" | "may" | "never",
): AnswerShape {
  const close = seq(free, mark("</think>"), optional(choice(plain("\n\n"), plain("\n"))));
  const thought = think === "open" ? [close] : think === "may" ? [optional(seq(mark("<think>"), close))] : [];
  return seq(...thought, said(wish, call));
}

function said(wish: AnswerWish, call: AnswerShape | undefined): AnswerShape {
  const text: AnswerShape | undefined =
    wish.text === "none" ? undefined : wish.text === "free" ? free : { kind: "content" };
  if (wish.calls === "none" || call === undefined) return text ?? seq();
  const most = wish.calls === "one" ? 1 : Number.POSITIVE_INFINITY;
  const calls = repeat(seq(call, optional(plain("\n"))), 1, most);
  if (text === undefined) return calls;
  // text that is free may introduce calls
  return wish.text === "free" ? seq(free, optional(calls)) : choice(text, calls);
}

export function qwen35Call(tools: readonly string[]): AnswerShape {
  const functions = tools.map((tool) =>
    seq(plain(`${tool}>\n`), { kind: "arguments", tool, notation: "qwen35" }),
  );
  const head = seq(mark("<tool_call>"), plain("\n<function="));
  return seq(head, choice(...functions), plain("</function>\n"), mark("</tool_call>"));
}

/** Gemma 4: a thought channel, then text or calls. `open`: the prompt ends within a thought. */
export function gemma4Shape(
  wish: AnswerWish,
  tools: readonly string[],
  think: "open" | "may" | "never",
): AnswerShape {
  const close = seq(free, mark("<channel|>"));
  const open = seq(mark("<|channel>"), plain("thought\n"), close);
  const thought = think === "open" ? [close] : think === "may" ? [optional(open)] : [];
  const named = tools.map((tool) => seq(plain(tool), { kind: "arguments", tool, notation: "gemma4" }));
  const call =
    named.length === 0
      ? undefined
      : seq(mark("<|tool_call>"), plain("call:"), choice(...named), mark("<tool_call|>"));
  return seq(...thought, said(wish, call));
}
