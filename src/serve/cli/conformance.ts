import { modelPath } from "../../models/model_option.ts";
import { type AnyCommand, command, UsageError, words } from "../../terminal/command.ts";
import { print, printJson } from "../../terminal/output.ts";
import { Progress } from "../../terminal/progress.ts";
import type { Target } from "../conformance/target.ts";
import { type HermesArgs, rowArgs, runHermes } from "./conformance_hermes.ts";
import { type EngineArgs, engineArgs, engineOptions } from "./engine_options.ts";

const conformanceArgs = {
  ...engineArgs,
  suite: {
    type: "positional",
    required: false,
    description: "Absent: what clients require. hermes: whether a model works as the Hermes agent's backend",
  },
  part: {
    type: "positional",
    required: false,
    description: "Of hermes: compatibility (also if absent), parallel or benchmark",
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
  ...rowArgs,
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
    "psionic conformance hermes -m qwen3.5-2b-q8_0.gguf",
    "psionic conformance hermes benchmark --rows psionic=start:qwen3.5-2b.gguf,ollama=http://127.0.0.1:11434#qwen3.5:2b",
  ],
  async run({ args, rawArgs }) {
    if (args.suite === undefined || args.suite === "") return probe(args, rawArgs);
    if (args.suite !== "hermes") throw new UsageError(`expected hermes or nothing, got ${args.suite}`);
    const label = args["base-url"] === undefined ? "psionic" : "server";
    const open = async () => {
      const { target, own, close } = await openServer(args, rawArgs);
      return { label, target: await patient(target), close, modelPath: own ? modelPath(args.model) : null };
    };
    await runHermes(args, open, given(rawArgs, ["base-url", ...Object.keys(engineArgs)]), keyOf(args));
  },
});

async function probe(args: ServerArgs, rawArgs: readonly string[]): Promise<void> {
  for (const name of Object.keys(rowArgs) as (keyof typeof rowArgs)[]) {
    if (args[name] !== undefined) throw new UsageError(`--${name} goes with hermes parallel or benchmark`);
  }
  const { chosenProbes } = await import("../conformance/probes/index.ts");
  const probes = chosenProbes(words(args.only));
  const { makeReport, reportTable } = await import("../conformance/report.ts");
  const { runNamed, runOwn } = await import("../conformance/run.ts");
  const progress = new Progress({ format: String });
  const { target, own, close } = await openServer(args, rawArgs);
  try {
    const run = own ? runOwn : runNamed;
    const results = await run(probes, target, (done, total) => progress.update("Probing", done, total));
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
}

/** The same server with more time for each answer: models think, and on a CPU they take their time. */
async function patient({ root, model, apiKey }: Target): Promise<Target> {
  const { makeTarget } = await import("../conformance/target.ts");
  const { answerMs } = await import("../conformance/hermes/launch.ts");
  return makeTarget(root, model, apiKey, answerMs);
}

type ServerArgs = EngineArgs &
  HermesArgs & {
    readonly "base-url"?: string | undefined;
    readonly "api-key"?: string | undefined;
  };

/** The server that was named, or one of our own. */
async function openServer(args: ServerArgs, rawArgs: readonly string[]) {
  const apiKey = keyOf(args);
  const baseUrl = args["base-url"];
  if (baseUrl === undefined) {
    if (args["api-key"] !== undefined) throw new UsageError("--api-key goes with --base-url");
    const { ownServer } = await import("../conformance/own.ts");
    return { ...(await ownServer(engineOptions(args))), own: true };
  }
  const [wrong] = given(
    rawArgs,
    Object.keys(engineArgs).filter((name) => name !== "model"),
  );
  // they would say nothing about a server that somebody else started
  if (wrong) throw new UsageError(`${wrong} is for a server of our own; leave it out beside --base-url`);
  const { firstModel, makeTarget, rootOf } = await import("../conformance/target.ts");
  const root = rootOf(baseUrl);
  const model = args.model ?? (await firstModel(root, apiKey));
  return { target: makeTarget(root, model, apiKey), own: false, close: async () => {} };
}

/** The key of the server that is probed; of the environment, so that it need not stand on a command line. */
function keyOf(args: ServerArgs): string | undefined {
  return args["api-key"] ?? (process.env.PSIONIC_API_KEY || undefined);
}

/** Which of the options stand on the command line. */
function given(rawArgs: readonly string[], names: readonly string[]): string[] {
  return names
    .filter((name) => rawArgs.some((word) => word.startsWith(`--${name}=`)))
    .map((name) => `--${name}`);
}
