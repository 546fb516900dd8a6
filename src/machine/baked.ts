/** The source that an executable was built from; `build.ts` puts the real record in the place of this file. */
export type BakedSource = {
  readonly commit: string;
  /** SHA-256 of `git status --short --branch` where there were uncommitted changes. */
  readonly dirtyStatus: string | null;
};

/** Undefined when running from source. */
export const bakedSource: BakedSource | undefined = undefined;
