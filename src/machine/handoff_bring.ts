/** Fetching within an invocation, which is one uninterrupted piece of work: another process of this program does it. */
import { ownProgram } from "../core/own_program.ts";
import { type RefusalClass, refusals, refuse } from "./contract.ts";
import type { Bring } from "./handoff_resume.ts";

/** As `psionic train fetch-checkpoint`; the receipt's path. */
export const bringHandoff: Bring = (address, { root, manifest }) => {
  const digest = manifest.peer_checkpoint_handoff_receipt?.artifact_ref.artifact_digest;
  const words = [
    ...["train", "fetch-checkpoint", "--json", "--from", address, "--run-root", root.root],
    ...["--node-pubkey", manifest.coordination.node_pubkey ?? ""],
    ...(digest === undefined ? [] : ["--receipt-digest", digest]),
  ];
  const done = Bun.spawnSync([...ownProgram(), ...words], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  if (done.exitCode === 0) {
    const { receipt_path } = JSON.parse(done.stdout.toString()) as { readonly receipt_path: string };
    return root.path(receipt_path);
  }
  const said = done.stderr.toString().trim().split("\n").at(-1) ?? "";
  return refuse(classOf(done.exitCode), said.replace(/^psionic: /, ""));
};

function classOf(exitCode: number): RefusalClass {
  const found = Object.entries(refusals).find(([, meaning]) => meaning.exitCode === exitCode);
  return (found?.[0] ?? "internal_error") as RefusalClass;
}
