/** A file inside the executable: where Bun shows it, the digest of its unpacked bytes, and whether it is compressed. */
export type EmbeddedFile = {
  readonly name: string;
  readonly path: string;
  readonly sha256: string;
  readonly compression: "none" | "zstd";
};

/**
 * Files carried by this executable, by name. Empty when running from source; build.ts puts the table of the compiled
 * program in the place of this module.
 */
export const embeddedFiles: ReadonlyMap<string, EmbeddedFile> = new Map();
