import { command } from "../../terminal/command.ts";
export const logits = command({
  meta: { name: "logits", description: "x" },
  args: {},
  examples: [],
  run() {},
});
