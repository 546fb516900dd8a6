import { UsageError } from "../../../terminal/command.ts";
import { groupOf, groups, type Probe } from "../probe.ts";
import { aiSdkProbes } from "./ai_sdk.ts";
import { codexProbes } from "./codex.ts";
import { complaintProbes } from "./complaints.ts";
import { hermesProbes } from "./hermes.ts";
import { langchainProbes } from "./langchain.ts";
import { openWebuiProbes } from "./open_webui.ts";
import { openaiProbes } from "./openai.ts";
import { opencodeProbes } from "./opencode.ts";
import { psionicProbes } from "./psionic.ts";
import { securityProbes } from "./security.ts";
import { structuredProbes } from "./structured.ts";

/** Every probe, in the order of the table. */
export const probes: readonly Probe[] = [
  ...openaiProbes,
  ...aiSdkProbes,
  ...langchainProbes,
  ...codexProbes,
  ...hermesProbes,
  ...opencodeProbes,
  ...openWebuiProbes,
  ...complaintProbes,
  ...structuredProbes,
  ...securityProbes,
  ...psionicProbes,
];

/** Probes by their names or their group's; throws `UsageError` for a name that is neither. */
export function chosenProbes(names: readonly string[] | undefined): readonly Probe[] {
  if (names === undefined) return probes;
  for (const name of names) {
    if (groups.some((group) => group === name) || probes.some((probe) => probe.name === name)) continue;
    throw new UsageError(`--only takes names of probes or of ${groups.join(", ")}; got ${name}`);
  }
  return probes.filter((probe) => names.includes(probe.name) || names.includes(groupOf(probe)));
}
