import { visible } from "../../terminal/visible.ts";
import type { Snapshot } from "./snapshot.ts";

const ago = (ms: number, now: number): string => `${Math.max(0, Math.round((now - ms) / 1000))} s ago`;

/** A snapshot for people, line by line; text of strangers is made harmless. */
export function linesOf(s: Snapshot): string[] {
  const { run, membership: m, checkpoint: c } = s;
  const lines = [`run root    ${s.run_root}`];
  if (!run) lines.push("run         nothing was done here yet");
  else {
    lines.push(`run         ${run.run_id}  ${run.lane_id} on ${run.backend}`);
    const refused = run.refusal_class === null ? "" : ` (${run.refusal_class})`;
    lines.push(`last        ${run.operation} as ${run.role}: ${run.outcome}${refused}`);
    lines.push(`phase       ${run.phase ?? run.window_state ?? "none"}`);
    lines.push(`            ${run.detail.slice(0, 200)}`);
  }
  if (m) {
    lines.push(`membership  ${m.node_pubkey}  revision ${m.revision}  ${m.transition}, ${m.worker_state}`);
    lines.push(`            ${m.liveness}, heard of ${ago(m.last_heartbeat_at_ms, s.read_at_ms)}`);
  }
  if (c)
    lines.push(
      `checkpoint  ${c.label ?? "none"}  step ${c.step ?? "none"}  ${c.pointer_state ?? "no pointer"}`,
    );
  const [first, last] = [s.losses[0], s.losses.at(-1)];
  if (first && last)
    lines.push(`loss        ${first.loss} at step ${first.step}, ${last.loss} at step ${last.step}`);
  for (const w of s.windows) {
    lines.push(
      `window      ${w.window_id}${w.passed_step === null ? "" : `  passed on step ${w.passed_step}`}`,
    );
    for (const x of w.contributions)
      lines.push(
        `  work      ${x.assignment_id}  ${x.node_pubkey}${x.stage ? `  ${x.stage}` : ""}  ${x.outcome}`,
      );
    for (const x of w.verdicts)
      lines.push(
        `  verdict   ${x.challenge}  ${x.disposition} ${x.score_bps}  drift ${x.drift_state ?? "none"}  rollback ${x.rollback_posture ?? "none"}`,
      );
  }
  for (const path of s.unreadable) lines.push(`unreadable  ${path}`);
  return lines.map((line) => visible(line).replaceAll("\n", " "));
}
