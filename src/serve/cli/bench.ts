import { command } from "../../terminal/command.ts";
export const bench = command({ meta: { name: "bench", description: "x" }, args: {}, examples: [], run() {} });
