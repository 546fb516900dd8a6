/** Where copies of checkpoints lie: a folder, or a bucket of an S3-compatible store. Both hash what they have taken. */
import { cpSync } from "node:fs";
import { join, resolve } from "node:path";
import { stepFolder, verifyCheckpoint } from "./checkpoint.ts";
import { takeCheckpoint } from "./checkpoint_copy.ts";
import { s3Store } from "./s3_store.ts";

export type BackupStore = {
  /** As receipts name it. */
  readonly root: string;
  /** Names of the environment variables that hold its credentials. */
  readonly credentials: readonly string[];
  /** Copies a checkpoint's folder and reads the copy again; throws where it is not the same. */
  keep(from: string, step: number, digest: string): Promise<void>;
  /** Puts the copy of a checkpoint below `checkpoints`, once its bytes were hashed. */
  bring(step: number, digest: string, checkpoints: string): Promise<void>;
};

/** `to`: a folder, or `s3://bucket/prefix`. */
export function backupStore(to: string, environment: NodeJS.ProcessEnv = process.env): BackupStore {
  return to.startsWith("s3://") ? s3Store(to, environment) : folderStore(resolve(to));
}

function folderStore(root: string): BackupStore {
  return {
    root,
    credentials: [],
    async keep(from, step, digest) {
      takeCheckpoint(root, step, (aside) => cpSync(from, aside, { recursive: true }));
      verifyCheckpoint(join(root, stepFolder(step)), digest);
    },
    async bring(step, digest, checkpoints) {
      const copy = join(root, stepFolder(step));
      verifyCheckpoint(copy, digest);
      takeCheckpoint(checkpoints, step, (aside) => {
        cpSync(copy, aside, { recursive: true });
        verifyCheckpoint(aside, digest);
      });
    },
  };
}
