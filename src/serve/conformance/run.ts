import { scriptedServer } from "./own.ts";
import { type Probe, type Result, runProbe } from "./probe.ts";
import type { Target } from "./target.ts";

export type OnResult = (done: number, total: number, result: Result) => void;

/** Runs probes one after the other against a server that was named. */
export async function runNamed(
  probes: readonly Probe[],
  target: Target,
  onResult: OnResult = () => {},
): Promise<Result[]> {
  const results: Result[] = [];
  for (const probe of probes) {
    const result = await runProbe(probe, target, false);
    results.push(result);
    onResult(results.length, probes.length, result);
  }
  return results;
}

/** The same against our own server; probes with a script get one that says it. */
export async function runOwn(
  probes: readonly Probe[],
  target: Target,
  onResult: OnResult = () => {},
): Promise<Result[]> {
  const results: Result[] = [];
  for (const probe of probes) {
    const result = probe.script
      ? await runScripted(probe, probe.script)
      : await runProbe(probe, target, false);
    results.push(result);
    onResult(results.length, probes.length, result);
  }
  return results;
}

async function runScripted(probe: Probe, script: NonNullable<Probe["script"]>): Promise<Result> {
  const server = await scriptedServer(script, probe.own);
  try {
    return await runProbe(probe, server.target, true);
  } finally {
    await server.close();
  }
}
