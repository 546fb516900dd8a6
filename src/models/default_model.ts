import { existsSync } from "node:fs";
import { join } from "node:path";
import { embeddedFiles } from "../core/embedded.ts";
import { unexpected } from "../core/error.ts";
import { unpack } from "../core/unpack.ts";

/** File of the model that is used when none is named. */
export const defaultModelName = "docs-oss-13m-mxfp4.gguf";

/** Path of the default model: unpacked from the executable, or the repository's fixture when run from source. */
export function defaultModelPath(): string {
  const embedded = embeddedFiles.get(defaultModelName);
  if (embedded) return unpack(embedded);
  const fixture = join(import.meta.dir, "..", "..", "fixtures", defaultModelName);
  if (existsSync(fixture)) return fixture;
  throw unexpected("file_not_found", "default model", fixture, "no file", { fix: "Name a model with -m" });
}
