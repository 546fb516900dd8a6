import { command } from "../terminal/command.ts";
export const doctor = command({
  meta: { name: "doctor", description: "x" },
  args: {},
  examples: [],
  run() {},
});
