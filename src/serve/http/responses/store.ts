import type { ChatMessage } from "../../../models/chat/index.ts";
import { HttpError } from "../errors.ts";
import type { Item } from "./input.ts";

/** An answer as it is kept: what was asked, what came of it, and the conversation up to here. */
export type StoredResponse = {
  readonly id: string;
  /** The caller's key: no other caller sees the answer. */
  readonly owner: number | undefined;
  readonly conversation: string;
  readonly model: string;
  readonly instructions: string | null;
  /** The wire form, with its output. */
  readonly resource: Item & { readonly output: readonly Item[] };
  readonly inputItems: readonly Item[];
  /** All turns, the answer's included; without the instructions. */
  readonly messages: readonly ChatMessage[];
};

/** An answer that is being made. */
export type RunningResponse = {
  readonly owner: number | undefined;
  readonly resource: () => Item;
  readonly inputItems: readonly Item[];
  readonly cancel: () => void;
};

export type StoreLimits = {
  readonly responses: number;
  readonly conversations: number;
  /** UTF-16 units of the text of all conversations, each counted as often as it is kept. */
  readonly length: number;
};

export const storeLimits: StoreLimits = { responses: 128, conversations: 64, length: 64 * 2 ** 20 };

type Conversation = { readonly owner: number | undefined; latest: string };

/** Answers of /v1/responses, in memory, for as long as the process lives; the oldest go first. */
export class ResponseStore {
  readonly limits: StoreLimits;
  private readonly kept = new Map<string, StoredResponse & { readonly length: number }>();
  private readonly running = new Map<string, RunningResponse>();
  private readonly conversations = new Map<string, Conversation>();
  private conversationCount = 0;
  private length = 0;

  constructor(limits: StoreLimits = storeLimits) {
    this.limits = limits;
  }

  get size(): number {
    return this.kept.size;
  }

  nextConversation(): string {
    this.conversationCount += 1;
    return `psionic-conv-${this.conversationCount}`;
  }

  begin(id: string, running: RunningResponse): void {
    this.running.set(id, running);
  }

  /** The answer is over; it stays only if `put` keeps it. */
  end(id: string): void {
    this.running.delete(id);
  }

  put(response: StoredResponse): void {
    const length = lengthOf(response);
    // What alone is too large is not kept at all: evicting everything else would not make room.
    if (length > this.limits.length) return;
    this.kept.set(response.id, { ...response, length });
    this.length += length;
    this.point(response);
    for (const id of this.kept.keys()) {
      if (this.kept.size <= this.limits.responses && this.length <= this.limits.length) break;
      this.drop(id);
    }
  }

  find(id: string, owner: number | undefined): StoredResponse | undefined {
    const found = this.kept.get(id);
    return found?.owner === owner ? found : undefined;
  }

  findRunning(id: string, owner: number | undefined): RunningResponse | undefined {
    const found = this.running.get(id);
    return found?.owner === owner ? found : undefined;
  }

  /** The latest answer of a conversation. */
  findConversation(id: string, owner: number | undefined): StoredResponse | undefined {
    const found = this.conversations.get(id);
    return found?.owner === owner && found ? this.find(found.latest, owner) : undefined;
  }

  /** All items of a caller's answers and requests by id; of two with one id the newer. */
  items(owner: number | undefined): ReadonlyMap<string, Item> {
    const found = new Map<string, Item>();
    for (const response of this.kept.values()) {
      if (response.owner !== owner) continue;
      for (const item of [...response.inputItems, ...response.resource.output])
        found.set(String(item.id), item);
    }
    return found;
  }

  /** Whether there was such an answer. Its conversation goes on from the latest one that is left. */
  delete(id: string, owner: number | undefined): boolean {
    const found = this.find(id, owner);
    if (!found) return false;
    this.drop(id);
    const conversation = this.conversations.get(found.conversation);
    if (conversation?.latest !== id) return true;
    const left = [...this.kept.values()].findLast((one) => one.conversation === found.conversation);
    if (left) conversation.latest = left.id;
    else this.conversations.delete(found.conversation);
    return true;
  }

  /** Drops an answer's conversation with all its answers; gives what may not be referred to any more. */
  invalidate(conversation: string, owner: number | undefined): string[] {
    const gone: string[] = [];
    for (const response of this.kept.values()) {
      if (response.conversation !== conversation || response.owner !== owner) continue;
      gone.push(`response:${response.id}`);
      this.drop(response.id);
    }
    if (this.conversations.get(conversation)?.owner === owner && this.conversations.delete(conversation)) {
      gone.push(`conversation:${conversation}`);
    }
    return gone;
  }

  private point({ conversation, owner, id }: StoredResponse): void {
    this.conversations.delete(conversation);
    this.conversations.set(conversation, { owner, latest: id });
    for (const oldest of this.conversations.keys()) {
      if (this.conversations.size <= this.limits.conversations) break;
      this.conversations.delete(oldest);
    }
  }

  private drop(id: string): void {
    this.length -= this.kept.get(id)?.length ?? 0;
    this.kept.delete(id);
  }
}

function lengthOf({ messages, inputItems, resource }: StoredResponse): number {
  // the resource repeats the tools and instructions of the request
  let length = JSON.stringify(inputItems).length + JSON.stringify(resource).length;
  for (const { content, reasoning = "", toolCalls = [] } of messages) {
    length += content.length + reasoning.length;
    for (const call of toolCalls) length += call.arguments.length;
  }
  return length;
}

/** The answer for an id that is not there, or is another caller's. */
export function unknownResponse(param: string | undefined, status = 404): HttpError {
  const message =
    "No response of this id is kept: it was not stored, was deleted, or made room for newer ones.";
  return new HttpError(status, message, {
    code: status === 404 ? "not_found" : "previous_response_not_found",
    ...(param === undefined ? {} : { param }),
  });
}
