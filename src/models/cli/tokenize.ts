import { command } from "../../terminal/command.ts";
export const tokenize = command({
  meta: { name: "tokenize", description: "x" },
  args: {},
  examples: [],
  run() {},
});
