import type { Script } from "../scripted_engine.ts";
import type { Target } from "./target.ts";

/** Whose requirement a probe expresses: a client of the matrix, what users complain about, security, or our own. */
export const groups = [
  "openai",
  "ai-sdk",
  "langchain",
  "codex",
  "hermes",
  "opencode",
  "open-webui",
  "complaints",
  "security",
  "psionic",
] as const;

export type Group = (typeof groups)[number];

/** One requirement and the requests that show whether it is met. */
export type Probe = {
  /** `group.subject`, unique. */
  readonly name: `${Group}.${string}`;
  /** What must hold, in one sentence. */
  readonly requires: string;
  /** Public threads that complain about the contrary, `owner/repo#number` or shorter. */
  readonly threads?: string;
  /**
   * The case needs a capable model: our own server gives these tokens to its parser and stream instead of a model's. Of a
   * server that was named, the probe asks its model, and is skipped where that does not do what the case is about.
   */
  readonly script?: Script;
  /** How our own server is started for this probe; a server that was named is taken as it is. */
  readonly own?: { readonly apiKey?: string; readonly pingMs?: number };
  /** Resolves to a remark, or nothing; throws `Breach` or `Skip`. */
  readonly run: (target: Target) => Promise<string | undefined>;
};

/** The requirement is not met. */
export class Breach extends Error {}

/** The probe says nothing about this server. */
export class Skip extends Error {}

/** Fails the probe unless `holds`. */
export function must(holds: boolean, expected: string, got: unknown): asserts holds {
  if (!holds) throw new Breach(`expected ${expected}, got ${shown(got)}`);
}

export function skip(reason: string): never {
  throw new Skip(reason);
}

/** A value for a message: JSON, cut. */
export function shown(value: unknown): string {
  const text = typeof value === "string" ? value : (JSON.stringify(value) ?? String(value));
  return text.length > 200 ? `${text.slice(0, 197)}...` : text;
}

export type Status = "pass" | "fail" | "skip";

/** What a probe found out. */
export type Result = {
  readonly name: string;
  readonly group: Group;
  readonly requires: string;
  readonly threads: string | null;
  /** `served`: the server's model; `scripted`: known tokens in its place. */
  readonly model: "served" | "scripted";
  readonly status: Status;
  /** What was not met, why it was skipped, or a remark. */
  readonly detail: string | null;
  readonly duration_ms: number;
};

export function groupOf({ name }: Probe): Group {
  const [group] = name.split(".");
  return groups.find((known) => known === group)!;
}

/** Runs a probe; whatever goes wrong while it runs is a failure with its reason. */
export async function runProbe(probe: Probe, target: Target, scripted: boolean): Promise<Result> {
  const begun = performance.now();
  const { status, detail } = await outcome(probe, target);
  return {
    name: probe.name,
    group: groupOf(probe),
    requires: probe.requires,
    threads: probe.threads ?? null,
    model: scripted ? "scripted" : "served",
    status,
    detail,
    duration_ms: Math.round(performance.now() - begun),
  };
}

async function outcome(
  probe: Probe,
  target: Target,
): Promise<{ readonly status: Status; readonly detail: string | null }> {
  try {
    return { status: "pass", detail: (await probe.run(target)) ?? null };
  } catch (error) {
    const detail = error instanceof Error ? error.message : String(error);
    return { status: error instanceof Skip ? "skip" : "fail", detail };
  }
}
