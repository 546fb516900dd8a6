import { command } from "../terminal/command.ts";
export const completions = command({
  meta: { name: "completions", description: "x" },
  args: {},
  examples: [],
  run() {},
});
