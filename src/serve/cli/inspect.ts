import { command } from "../../terminal/command.ts";
export const inspect = command({
  meta: { name: "inspect", description: "x" },
  args: {},
  examples: [],
  run() {},
});
