import { expect, test } from "bun:test";
import { ResponseStore, type StoredResponse } from "./store.ts";

function response(id: string, more: Partial<StoredResponse> = {}): StoredResponse {
  return {
    id,
    owner: undefined,
    conversation: `conv-${id}`,
    model: "m",
    instructions: null,
    resource: { id, output: [{ id: `${id}-msg-0`, type: "message" }] },
    inputItems: [{ id: `${id}-in-0` }],
    messages: [{ role: "user", content: "hi" }],
    ...more,
  };
}

test("the oldest make room, by count and by length", () => {
  const store = new ResponseStore({ responses: 2, conversations: 1, length: 1000 });
  for (const id of ["a", "b", "c"]) store.put(response(id));
  expect(["a", "b", "c"].filter((id) => store.find(id, undefined))).toEqual(["b", "c"]);
  expect(store.findConversation("conv-b", undefined)).toBeUndefined();
  expect(store.findConversation("conv-c", undefined)?.id).toBe("c");
  store.put(response("d", { messages: [{ role: "user", content: "x".repeat(880) }] }));
  expect(store.size).toBe(1);
  store.put(response("e", { messages: [{ role: "user", content: "x".repeat(2000) }] }));
  expect(store.find("e", undefined)).toBeUndefined();
  expect(store.find("d", undefined)?.id).toBe("d");
});

test("nobody sees another caller's answers", () => {
  const store = new ResponseStore();
  store.put(response("a", { owner: 0 }));
  expect(store.find("a", 1)).toBeUndefined();
  expect(store.items(1).get("a-msg-0")).toBeUndefined();
  expect(store.items(0).get("a-msg-0")).toMatchObject({ type: "message" });
  expect(store.findConversation("conv-a", undefined)).toBeUndefined();
  expect(store.delete("a", 1)).toBe(false);
  expect(store.invalidate("conv-a", 1)).toEqual([]);
  expect(store.invalidate("conv-a", 0)).toEqual(["response:a", "conversation:conv-a"]);
  expect(store.size).toBe(0);
});

test("a conversation whose latest answer is deleted goes on from the one before it", () => {
  const store = new ResponseStore();
  for (const id of ["a", "b", "c"]) store.put(response(id, { conversation: id === "c" ? "other" : "one" }));
  expect(store.findConversation("one", undefined)?.id).toBe("b");
  expect(store.delete("b", undefined)).toBe(true);
  expect(store.findConversation("one", undefined)?.id).toBe("a");
  expect(store.delete("a", undefined)).toBe(true);
  expect(store.findConversation("one", undefined)).toBeUndefined();
  expect(store.findConversation("other", undefined)?.id).toBe("c");
});
