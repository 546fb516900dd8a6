/** The source a run was started from, for its receipts. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { sha256 } from "../core/digest.ts";
import { unexpected } from "../core/error.ts";

export type GitState = {
  readonly selected_git_ref: string;
  /** 40 hex digits; zeros where there is no repository. */
  readonly git_commit_sha: string;
  readonly dirty_tree_admission: "refuse_by_default" | "allowed_by_operator_override";
  readonly workspace_status_sha256: string | null;
};

/** What stands for the source of an executable that runs outside a checkout of it. */
const packaged: GitState = {
  selected_git_ref: "packaged-runtime",
  git_commit_sha: "0".repeat(40),
  dirty_tree_admission: "refuse_by_default",
  workspace_status_sha256: null,
};

function git(folder: string, ...words: string[]): string | undefined {
  try {
    const { exitCode, stdout } = Bun.spawnSync(["git", "-C", folder, ...words], { stderr: "ignore" });
    return exitCode === 0 ? stdout.toString().trimEnd() : undefined;
  } catch {
    return undefined; // no git on this machine
  }
}

/**
 * The state of the checkout in `folder`, where that is one of psionic. Uncommitted changes are refused unless `allowDirty`,
 * since a receipt could not say what ran.
 */
export function gitState(folder: string, ref: string | undefined, allowDirty: boolean): GitState {
  const top = git(folder, "rev-parse", "--show-toplevel");
  if (top === undefined || !isPsionic(top)) {
    if (ref !== undefined) {
      throw unexpected(
        "invalid_request",
        "train --git-ref",
        "a checkout of psionic as the working folder",
        folder,
      );
    }
    return packaged;
  }
  const selected = ref ?? git(top, "symbolic-ref", "--quiet", "HEAD") ?? "HEAD";
  const commit = git(top, "rev-parse", "--verify", `${selected}^{commit}`);
  if (!commit) throw unexpected("invalid_request", "train --git-ref", "a ref of this repository", selected);
  const dirty = git(top, "status", "--porcelain") !== "";
  if (dirty && !allowDirty) {
    throw unexpected("invalid_request", "train", "a working tree without uncommitted changes", "some", {
      fix: "Commit them, or give --allow-dirty-tree",
    });
  }
  const status = allowDirty ? (git(top, "status", "--short", "--branch") ?? "") : undefined;
  return {
    selected_git_ref: selected,
    git_commit_sha: commit,
    dirty_tree_admission: allowDirty ? "allowed_by_operator_override" : "refuse_by_default",
    workspace_status_sha256: status === undefined ? null : sha256(status),
  };
}

function isPsionic(top: string): boolean {
  try {
    return (
      (JSON.parse(readFileSync(join(top, "package.json"), "utf8")) as { name?: unknown }).name === "psionic"
    );
  } catch {
    return false;
  }
}
