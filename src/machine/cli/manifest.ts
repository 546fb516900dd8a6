import { writeSync } from "node:fs";
import { orderedJson } from "../../core/json.ts";
import { invoke } from "../invoke.ts";
import type { StatusPacket } from "../packets.ts";

/** Text of `psionic train manifest --help`. */
export const manifestHelp = `Does the one operation that a manifest names, for a supervisor

Usage: psionic train manifest --manifest PATH

Prints one status packet: on stdout when the operation was done, on stderr when it was refused. The exit code is the
packet's: 0 done; 10 bad config, 11 stale assignment, 13 unsupported topology, 14 invalid stage, 15 checkpoint missing,
16 checkpoint mismatch, 17 artifact incomplete, 18 artifact mismatch, 21 other environment, 22 other build, 70 internal.

A lane's work runs on its own backend (cuda, metal), or on what PSIONIC_ACTUAL_LANE_BACKEND, PSIONIC_APPLE_LANE_BACKEND or
PSIONIC_ADAPTER_LANE_BACKEND names: cpu, or metal-standin for the Apple lane. What is trained stands in
manifests/lane_profile.json of the run root. Contract: docs/machine-runtime.md.
`;

/** The machine form reads its words itself: exactly two, everything else is a refusal with a packet. */
export function trainManifest(words: readonly string[]): number {
  if (words.length === 1 && (words[0] === "--help" || words[0] === "-h")) {
    writeAll(1, manifestHelp);
    return 0;
  }
  return printPacket(invoke(words));
}

/** On stdout what was done, on stderr what was refused; the exit code. */
export function printPacket(packet: StatusPacket): number {
  writeAll(packet.outcome === "succeeded" ? 1 : 2, `${orderedJson(packet, 2)}\n`);
  return packet.exit_code;
}

/** Waits for a slow reader; one that has gone away has seen enough. */
function writeAll(handle: number, text: string): void {
  const bytes = new TextEncoder().encode(text);
  for (let at = 0; at < bytes.length; ) {
    try {
      at += writeSync(handle, bytes, at);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === "EPIPE") return;
      if (code !== "EAGAIN") throw error;
      Bun.sleepSync(1);
    }
  }
}
