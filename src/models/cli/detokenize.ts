import { command } from "../../terminal/command.ts";
export const detokenize = command({
  meta: { name: "detokenize", description: "x" },
  args: {},
  examples: [],
  run() {},
});
