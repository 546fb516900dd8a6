import { command } from "../../terminal/command.ts";
export const run = command({ meta: { name: "run", description: "x" }, args: {}, examples: [], run() {} });
