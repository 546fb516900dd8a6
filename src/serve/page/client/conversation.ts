import type { Piece, Usage } from "./api.ts";
import type { Settings } from "./settings.ts";

export type ToolCall = { id: string; name: string; arguments: string };

export type UserTurn = { readonly role: "user"; readonly text: string };
export type ToolTurn = {
  readonly role: "tool";
  readonly callId: string;
  readonly name: string;
  readonly text: string;
};
export type AnswerTurn = {
  readonly role: "assistant";
  readonly model: string;
  text: string;
  reasoning: string;
  readonly toolCalls: ToolCall[];
  finish?: string;
  /** The person ended it. */
  stopped?: true;
  error?: ShownError;
  figures?: Figures;
};
export type Turn = UserTurn | ToolTurn | AnswerTurn;

export type ShownError = { readonly message: string; readonly code?: string; readonly requestId?: string };

/** What the server counted and measured. */
export type Figures = {
  readonly usage: Usage;
  /** Under which the server's log has the times. */
  readonly requestId: string | undefined;
  readonly times?: Times;
};

/** Milliseconds; null where there was no such time, between the tokens of an answer of one token, say. */
export type Times = { readonly ttft_ms: number | null; readonly itl_ms: number | null };

export function emptyAnswer(model: string): AnswerTurn {
  return { role: "assistant", model, text: "", reasoning: "", toolCalls: [] };
}

/** Takes one piece of a stream into the answer. */
export function take(answer: AnswerTurn, piece: Piece): void {
  switch (piece.type) {
    case "content":
      answer.text += piece.text;
      break;
    case "reasoning":
      answer.reasoning += piece.text;
      break;
    case "finish":
      answer.finish = piece.reason;
      break;
    case "tool": {
      const { index, id, function: called } = piece.delta;
      answer.toolCalls[index] ??= { id: id ?? "", name: "", arguments: "" };
      const call = answer.toolCalls[index]!;
      if (called?.name && call.name === "") call.name = called.name;
      call.arguments += called?.arguments ?? "";
      break;
    }
    case "usage":
      break;
  }
}

/** Whether the last turn waits for results of tools. */
export function awaitsResults(turns: readonly Turn[]): boolean {
  const last = turns.at(-1);
  return last?.role === "assistant" && last.toolCalls.length > 0 && !last.error && !last.stopped;
}

/** The request for the next answer; what failed or was stopped before it said anything is left out. */
export function requestBody(turns: readonly Turn[], settings: Settings, model: string): object {
  const messages: object[] =
    settings.system.trim() === "" ? [] : [{ role: "system", content: settings.system }];
  for (const turn of turns) {
    if (turn.role === "user") messages.push({ role: "user", content: turn.text });
    else if (turn.role === "tool") {
      messages.push({ role: "tool", tool_call_id: turn.callId, name: turn.name, content: turn.text });
    } else if (isComplete(turn) && turn.toolCalls.length > 0) {
      const calls = turn.toolCalls.map(({ id, name, arguments: args }) => {
        return { id, type: "function", function: { name, arguments: args } };
      });
      messages.push({
        ...{ role: "assistant", content: turn.text, tool_calls: calls },
        // the thoughts that led to a call belong to it until it is answered
        ...(turn.reasoning === "" ? {} : { reasoning_content: turn.reasoning }),
      });
    } else if (turn.text !== "") messages.push({ role: "assistant", content: turn.text });
  }
  return { ...(model === "" ? {} : { model }), messages, ...settings.fields };
}

function isComplete({ error, stopped }: AnswerTurn): boolean {
  return error === undefined && !stopped;
}

/** What a stored conversation has of turns; anything else in it is dropped. */
export function readTurns(stored: unknown): Turn[] {
  if (!Array.isArray(stored)) return [];
  return stored.flatMap((item: unknown): Turn[] => {
    const turn = item as Partial<Record<string, unknown>> | null;
    if (typeof turn !== "object" || turn === null || typeof turn.text !== "string") return [];
    if (turn.role === "user") return [{ role: "user", text: turn.text }];
    if (turn.role === "tool" && typeof turn.callId === "string" && typeof turn.name === "string") {
      return [{ role: "tool", callId: turn.callId, name: turn.name, text: turn.text }];
    }
    return turn.role === "assistant" ? [readAnswer(turn, turn.text)] : [];
  });
}

function readAnswer(stored: Partial<Record<string, unknown>>, text: string): AnswerTurn {
  const told = (value: unknown): string | undefined => (typeof value === "string" ? value : undefined);
  const calls: readonly unknown[] = Array.isArray(stored.toolCalls) ? stored.toolCalls : [];
  const error = stored.error as Partial<Record<string, unknown>> | null | undefined;
  const message = told(error?.message);
  const [code, requestId, finish] = [told(error?.code), told(error?.requestId), told(stored.finish)];
  return {
    role: "assistant",
    model: told(stored.model) ?? "",
    text,
    reasoning: told(stored.reasoning) ?? "",
    toolCalls: calls.flatMap((call) => {
      const { id, name, arguments: args } = (call ?? {}) as Partial<Record<string, unknown>>;
      if (typeof id !== "string" || typeof name !== "string" || typeof args !== "string") return [];
      return [{ id, name, arguments: args }];
    }),
    ...(finish === undefined ? {} : { finish }),
    ...(stored.stopped === true ? { stopped: true } : {}),
    ...(message === undefined
      ? {}
      : {
          error: {
            message,
            ...(code === undefined ? {} : { code }),
            ...(requestId === undefined ? {} : { requestId }),
          },
        }),
  };
}
