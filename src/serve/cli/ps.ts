import { readFileSync } from "node:fs";
import { type AnyCommand, command } from "../../terminal/command.ts";
import { print, printJson } from "../../terminal/output.ts";
import { readableBytes, table } from "../../terminal/table.ts";
import { type FoundServer, registeredServers, removeStale } from "../running.ts";

/** What a server says about a model; keys as on the wire. */
type ModelStatus = {
  readonly id: string;
  readonly psionic_load_status?: string;
  readonly psionic_requests?: number;
  readonly psionic_served_backend?: string;
  readonly psionic_memory?: { readonly total_bytes?: number } | null;
};

type Answer =
  | { readonly state: "running"; readonly models: readonly ModelStatus[] }
  | { readonly state: "key needed" | "no answer" | "gone" };

export const ps: AnyCommand = command({
  meta: {
    name: "ps",
    description:
      "Lists running servers with their models. Servers with keys are asked with PSIONIC_API_KEY or --api-key-file. " +
      "Entries of servers that ended without a word are shown once and taken out.",
  },
  args: {
    "api-key-file": {
      type: "string",
      valueHint: "PATH",
      description: "File with a key for servers that want one",
    },
    json: { type: "boolean", description: "Print the list as JSON" },
  },
  examples: ["psionic ps", "psionic ps --json"],
  async run({ args }) {
    const key = args["api-key-file"] ? firstKey(args["api-key-file"]) : process.env.PSIONIC_API_KEY;
    const servers = registeredServers();
    const answers = await Promise.all(
      servers.map(async (server) => ({ server, answer: await askServer(server, key) })),
    );
    removeStale(servers);
    if (args.json) return printJson({ servers: answers.map(({ server, answer }) => facts(server, answer)) });
    if (answers.length === 0) return print("No server is running.");
    const rows = answers.flatMap(({ server, answer }) => lines(server, answer));
    await print(
      table([["PID", "ADDRESS", "MODEL", "STATE", "REQUESTS", "MEMORY", "UP"], ...rows], [0, 4, 5]),
    );
  },
});

function firstKey(path: string): string | undefined {
  const lines = readFileSync(path, "utf8").split("\n");
  return lines.map((line) => line.trim()).find((line) => line !== "" && !line.startsWith("#"));
}

async function askServer({ url, alive }: FoundServer, key: string | undefined): Promise<Answer> {
  if (!alive) return { state: "gone" };
  try {
    const response = await fetch(`${reachable(url)}/psionic/management/status`, {
      headers: key ? { authorization: `Bearer ${key}` } : {},
      signal: AbortSignal.timeout(2000),
    });
    if (response.status === 401) return { state: "key needed" };
    const { models } = (await response.json()) as { readonly models?: readonly ModelStatus[] };
    return Array.isArray(models) ? { state: "running", models } : { state: "no answer" };
  } catch {
    // it may be busy ending; the process is there all the same
    return { state: "no answer" };
  }
}

/** A server that listens on every address is on this machine's own, too. */
function reachable(url: string): string {
  return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:");
}

function facts({ pid, url, version, startedAtMs, models, keyed }: FoundServer, answer: Answer) {
  const started_at = new Date(startedAtMs).toISOString();
  const served = answer.state === "running" ? answer.models : models.map((path) => ({ path }));
  return { pid, url, version, started_at, keyed, state: answer.state, models: served };
}

function lines(server: FoundServer, answer: Answer): string[][] {
  const up = upTime(Date.now() - server.startedAtMs);
  const own = [String(server.pid), server.url];
  if (answer.state !== "running") {
    const names = server.models.map((path) => path.replace(/^.*\//, "")).join(", ");
    return [[...own, names, answer.state, "", "", answer.state === "gone" ? "" : up]];
  }
  return answer.models.map(({ id, psionic_load_status, psionic_requests, psionic_memory }, i) => [
    ...(i === 0 ? own : ["", ""]),
    ...[id, psionic_load_status ?? "loaded", String(psionic_requests ?? 0)],
    ...[psionic_memory?.total_bytes === undefined ? "" : readableBytes(psionic_memory.total_bytes)],
    i === 0 ? up : "",
  ]);
}

function upTime(ms: number): string {
  const minutes = Math.max(0, Math.floor(ms / 60_000));
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}
