import { resolve } from "node:path";
import { orderedJson } from "../../core/json.ts";
import { command, decimalNumber, UsageError, wholeNumber } from "../../terminal/command.ts";
import { stopped } from "../../terminal/live_page.ts";
import { print } from "../../terminal/output.ts";
import { linesOf } from "../watch/lines.ts";
import { servePage } from "../watch/page.ts";
import { snapshotOf } from "../watch/snapshot.ts";

const clear = "\u001b[H\u001b[2J";

export const watch = command({
  meta: {
    name: "train watch",
    description: "Shows how a run stands: phase, membership, windows, last signals",
  },
  args: {
    "run-root": {
      type: "string",
      valueHint: "FOLDER",
      description: "The run root; it is read and not taken",
    },
    once: { type: "boolean", description: "Print it once and end; so it is where stdout is no terminal" },
    interval: { type: "string", valueHint: "SECONDS", description: "Between two readings; default 1" },
    web: { type: "boolean", description: "Serve it as a page on 127.0.0.1 until stopped" },
    port: { type: "string", valueHint: "N", description: "web: its port; default any that is free" },
    json: { type: "boolean", description: "Print it once, as one JSON document" },
  },
  examples: [
    "psionic train watch --run-root run",
    "psionic train watch --run-root run --json",
    "psionic train watch --run-root run --web --port 8090",
  ],
  async run({ args }) {
    const given = args["run-root"];
    if (given === undefined || given === "") throw new UsageError("--run-root FOLDER is needed");
    const root = resolve(given);
    const port = wholeNumber(args.port, "--port", 0, 65535);
    if (port !== undefined && args.web !== true) throw new UsageError("--port belongs to --web");
    if (args.web === true && (args.once === true || args.json === true || args.interval !== undefined))
      throw new UsageError("--web goes with --port alone");
    const seconds = decimalNumber(args.interval, "--interval", 0.05, 3600) ?? 1;
    if (args.json === true) return print(orderedJson(snapshotOf(root), 2));
    if (args.web === true) return serve(root, port ?? 0);
    if (args.once === true || process.stdout.isTTY !== true)
      return print(linesOf(snapshotOf(root)).join("\n"));
    for (;;) {
      await print(clear + linesOf(snapshotOf(root)).join("\n"));
      await Bun.sleep(1000 * seconds);
    }
  },
});

async function serve(root: string, port: number): Promise<void> {
  snapshotOf(root);
  const server = servePage(root, port);
  await print(`psionic train watch http://127.0.0.1:${server.port}/ run_root=${root}`);
  await stopped();
  await server.stop(true);
}
