import type { ChatFormat, ChatMessage } from "../../../models/chat/index.ts";
import type { RouteContext } from "../context.ts";
import { badField } from "../errors.ts";
import { type Item, type ResponseInput, readInput } from "./input.ts";
import type { ResponseFields } from "./request.ts";
import { type StoredResponse, unknownResponse } from "./store.ts";

/** What a request continues, and what it adds. */
export type Continued = {
  readonly previous: StoredResponse | undefined;
  readonly conversation: string;
  /** Added to the conversation by this request. */
  readonly input: ResponseInput;
  /** In force for this turn; they stand before the conversation. */
  readonly instructions: string | null;
  /** For the chat format: instructions, earlier turns, this turn. */
  readonly prompt: readonly ChatMessage[];
};

/** Finds the conversation a request belongs to and reads its input. `model`: the file's name, whatever the request calls it. */
export function continueConversation(
  { state, keyIndex }: RouteContext,
  body: ResponseFields,
  id: string,
  model: string,
  chat: ChatFormat,
): Continued {
  const { responses, settings } = state;
  const previous = previousOf(body, responses, keyIndex);
  if (previous && previous.model !== model) {
    throw badField("model", "the model of the earlier turns", "another one");
  }
  const instructions = instructionsOf(body, previous);
  const history = previous?.messages ?? [];
  let items: ReadonlyMap<string, Item> | undefined;
  const input = readInput(body.input ?? (previous ? [] : undefined), {
    limits: settings.limits,
    chat,
    history,
    findItem: (item) => {
      items ??= responses.items(keyIndex);
      return items.get(item);
    },
    itemId: (index) => `${id}-in-${index}`,
  });
  if (history.length + input.messages.length === 0 && !instructions) {
    throw badField("input", "at least one message", "none");
  }
  return {
    previous,
    conversation: previous?.conversation ?? responses.nextConversation(),
    input,
    instructions,
    prompt: [
      ...(instructions ? [{ role: "developer" as const, content: instructions }] : []),
      ...history,
      ...input.messages,
    ],
  };
}

function previousOf(
  body: ResponseFields,
  responses: RouteContext["state"]["responses"],
  owner: number | undefined,
): StoredResponse | undefined {
  const named = typeof body.conversation === "string" ? body.conversation : body.conversation?.id;
  if (named) {
    const found = responses.findConversation(named, owner);
    if (!found) throw unknownResponse("conversation", 400);
    return found;
  }
  if (!body.previous_response_id) return undefined;
  const found = responses.find(body.previous_response_id, owner);
  if (!found) throw unknownResponse("previous_response_id", 400);
  return found;
}

/** Instructions hold for a whole conversation: left out they stay, changed they are refused. */
function instructionsOf(body: ResponseFields, previous: StoredResponse | undefined): string | null {
  const asked = body.instructions ?? null;
  if (!previous) return asked;
  if (asked !== null && asked !== previous.instructions) {
    const fix = "Leave them out, or begin a new conversation";
    throw badField("instructions", "those of the earlier turns", "other ones", fix);
  }
  return previous.instructions;
}
