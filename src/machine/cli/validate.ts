import { command } from "../../terminal/command.ts";
import { refuse } from "../contract.ts";
import { type InvokeOptions, invoke, invokeComposed } from "../invoke.ts";
import type { StatusPacket } from "../packets.ts";
import { composeValidation } from "../validate_form.ts";
import { printPacket } from "./manifest.ts";

const value = (hint: string, description: string) =>
  ({ type: "string", valueHint: hint, description }) as const;

/** For help and completions; the words are read by `validateContribution`, which refuses with a packet. */
export const validate = command({
  meta: {
    name: "validate-contribution",
    description: `Does the work of a contribution again and leaves a verdict in the validator's run root. Prints one status packet:
on stdout when there is a verdict, whatever it is; on stderr when the contribution could not be judged. Exit codes are
the packet's: 0 judged; 10 bad config, 11 stale assignment, 13 unsupported topology, 15 checkpoint missing,
16 checkpoint mismatch, 17 artifact incomplete, 18 artifact mismatch, 21 other environment, 22 other build, 70 internal.
Contract: docs/validation.md.`,
  },
  args: {
    manifest: value("FILE", "A manifest whose operation is validate_contribution; alone on the line"),
    "run-root": value("FOLDER", "Run root of the validator; made where it is not there"),
    contribution: value("FOLDER", "Folder of the contribution: windows/<window>/contributions/<id>"),
    "challenge-id": value("ID", "Names the challenge; what is drawn depends on it"),
    steps: value("N|all", "Steps to do again at least; default all of a short window, else a part"),
    "start-state": value(
      "DIGEST",
      "SHA-256 of the state that the window is to begin with, where the assignment names one",
    ),
    "node-pubkey": value("KEY", "Who validates; default local-validator"),
    "run-id": value("ID", "Name of the validator's run; default that of its folder"),
    json: { type: "boolean", description: "The packet is JSON with and without it" },
  },
  examples: [
    "psionic validate-contribution --manifest validate.json",
    "psionic validate-contribution --run-root validator --contribution run/windows/w1/contributions/ID --challenge-id c1",
    "psionic validate-contribution --run-root validator --contribution FOLDER --challenge-id c1 --steps all",
  ],
  run: ({ rawArgs }) => {
    process.exitCode = validateContribution(rawArgs);
  },
});

/** Both forms: prints the packet and gives its exit code. */
export function validateContribution(words: readonly string[]): number {
  return printPacket(validationPacket(words));
}

/** The packet of what the words ask for; whatever is wrong with them is `bad_config`. */
export function validationPacket(words: readonly string[], options: InvokeOptions = {}): StatusPacket {
  const only = { ...options, only: "validate_contribution" } as const;
  if (words.includes("--manifest") || words.length === 0) return invoke(words, only);
  const environment = options.environment ?? process.env;
  return invokeComposed(() => {
    const given = readWords(words);
    const needed = (name: string): string =>
      given.get(name) ?? refuse("bad_config", `expected --manifest FILE, or --${name} beside the others`);
    const form = {
      ...{ runRoot: needed("run-root"), contribution: needed("contribution") },
      ...{ challengeId: needed("challenge-id"), node: given.get("node-pubkey") ?? "local-validator" },
      ...(given.has("run-id") && { runId: given.get("run-id") ?? "" }),
      ...(given.has("start-state") && { startState: given.get("start-state") ?? "" }),
    };
    const steps = stepsOf(given.get("steps"));
    return {
      ...composeValidation(form, environment),
      ...(steps !== undefined && { replaySteps: steps }),
    };
  }, only);
}

const options = ["run-root", "contribution", "challenge-id", "steps", "start-state", "node-pubkey", "run-id"];

/** `--name value` and `--name=value`, each once, in any order. */
function readWords(words: readonly string[]): ReadonlyMap<string, string> {
  const given = new Map<string, string>();
  const queue = words.filter((word) => word !== "--json");
  for (let word = queue.shift(); word !== undefined; word = queue.shift()) {
    const [, name = "", attached] = /^--([a-z-]+)(?:=(.*))?$/s.exec(word) ?? [];
    if (!options.includes(name))
      refuse("bad_config", `expected ${options.map((o) => `--${o}`).join(", ")}, got ${word.slice(0, 60)}`);
    if (given.has(name)) refuse("bad_config", `--${name} is given twice`);
    const text = attached ?? queue.shift();
    if (text === undefined || text === "") refuse("bad_config", `--${name} takes a value`);
    given.set(name, text);
  }
  return given;
}

function stepsOf(text: string | undefined): number | "all" | undefined {
  if (text === undefined || text === "all") return text;
  const n = /^\d{1,15}$/.test(text) ? Number(text) : 0;
  return n > 0
    ? n
    : refuse("bad_config", `--steps takes a whole number above 0 or all, got ${text.slice(0, 40)}`);
}
