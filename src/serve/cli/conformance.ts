import { type AnyCommand, command, UsageError, words } from "../../terminal/command.ts";
import { print, printJson } from "../../terminal/output.ts";
import { Progress } from "../../terminal/progress.ts";
import { type EngineArgs, engineArgs, engineOptions } from "./engine_options.ts";

const conformanceArgs = {
  ...engineArgs,
  suite: {
    type: "positional",
    required: false,
    description: "Absent: what clients require. hermes: whether a model works as the Hermes agent's backend",
  },
  "base-url": {
    type: "string",
    valueHint: "URL",
    description: "Server to probe; absent: one of our own, started for the probes",
  },
  model: {
    ...engineArgs.model,
    valueHint: "NAME|PATH",
    description:
      "With --base-url the model's name there; absent: the first listed. Else the file to serve; absent: the built-in model",
  },
  "api-key": {
    type: "string",
    valueHint: "KEY",
    description: "Key of the server at --base-url; absent: PSIONIC_API_KEY of the environment",
  },
  only: { type: "string", valueHint: "NAMES", description: "Probes or groups to run, comma-separated" },
  json: { type: "boolean", description: "Print the report as JSON" },
} as const;

export const conformance: AnyCommand = command({
  meta: {
    name: "conformance",
    description: "Probes a server for what its clients require, and prints what is met as a table or JSON.",
  },
  args: conformanceArgs,
  examples: [
    "psionic conformance",
    "psionic conformance --base-url http://127.0.0.1:8080/v1 --json",
    "psionic conformance --only codex,complaints.warm-logits",
  ],
  async run({ args, rawArgs }) {
    if (args.suite !== undefined) throw new UsageError(`expected hermes or nothing, got ${args.suite}`);
    const { chosenProbes } = await import("../conformance/probes/index.ts");
    const probes = chosenProbes(words(args.only));
    const { makeReport, reportTable } = await import("../conformance/report.ts");
    const { runNamed, runOwn } = await import("../conformance/run.ts");
    const progress = new Progress({ format: String });
    const onResult = (done: number, total: number) => progress.update("Probing", done, total);
    const server = await openServer(args, rawArgs);
    const { target, own, close } = server;
    try {
      const results = await (own ? runOwn : runNamed)(probes, target, onResult);
      progress.end();
      const report = makeReport(own ? "own" : "named", target, results);
      if (args.json) await printJson(report);
      else await print(reportTable(report));
      if (!report.overall_pass)
        throw new Error(`${report.failed} of ${results.length} probes failed; see above`);
    } finally {
      progress.end();
      await close();
    }
  },
});

type ServerArgs = EngineArgs & {
  readonly "base-url"?: string | undefined;
  readonly "api-key"?: string | undefined;
};

/** The server that was named, or one of our own. */
async function openServer(args: ServerArgs, rawArgs: readonly string[]) {
  const apiKey = args["api-key"] ?? (process.env.PSIONIC_API_KEY || undefined);
  const baseUrl = args["base-url"];
  if (baseUrl === undefined) {
    if (args["api-key"] !== undefined) throw new UsageError("--api-key goes with --base-url");
    const { ownServer } = await import("../conformance/own.ts");
    return { ...(await ownServer(engineOptions(args))), own: true };
  }
  refuseEngineOptions(rawArgs);
  const { firstModel, makeTarget, rootOf } = await import("../conformance/target.ts");
  const root = rootOf(baseUrl);
  const model = args.model ?? (await firstModel(root, apiKey));
  return { target: makeTarget(root, model, apiKey), own: false, close: async () => {} };
}

/** Options of an engine say nothing about a server that somebody else started. */
function refuseEngineOptions(rawArgs: readonly string[]): void {
  for (const name of Object.keys(engineArgs)) {
    if (name === "model" || !rawArgs.some((word) => word.startsWith(`--${name}=`))) continue;
    throw new UsageError(`--${name} is for a server of our own; leave it out beside --base-url`);
  }
}
